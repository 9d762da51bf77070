# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_kubectl_stepup_global_optspecs
    string join \n h/help V/version
end

function __fish_kubectl_stepup_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_kubectl_stepup_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_kubectl_stepup_using_subcommand
    set -l cmd (__fish_kubectl_stepup_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -s V -l version -d 'Print version'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "setup" -d 'Write the profile, and put the credential plugin into the kubeconfig'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "login" -d 'Sign in'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "logout" -d 'Sign out: drop grants, revoke the session, forget all tokens'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "status" -d 'Show who is signed in, live grants, and what is waiting for a step-up'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "elevate" -d 'Step up now, for what was just refused or for what you are about to do'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "drop" -d 'Give grants up before they expire'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "completion" -d 'Print the completion script for a shell'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "get-token" -d 'Print a token for the API server (kubectl runs this; people do not)'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "__complete" -d 'Complete a command line for kubectl\'s own completion'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l profile -d 'Profile to write' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l issuer -d 'Issuer URL of the identity provider (needed for a new profile)' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l client-id -d 'OAuth client to sign in as (needed for a new profile)' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l client-secret-file -d 'File with the client\'s secret, where the provider insists on one' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l issuer-ca -d 'PEM file of the CA behind the provider\'s certificate [default: the system\'s]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l scope -d 'Scope to ask for, repeatable [default: openid offline_access profile email]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l server -d 'URL of stepup-server; without it there is no step-up' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l server-ca -d 'PEM file of the CA behind stepup-server\'s certificate [default: the system\'s]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l flow -d 'How to sign in [default: device]' -r -f -a "device\t'URL and code, in a browser anywhere (RFC 8628)'
browser\t'Browser on this machine: code + PKCE on a loopback port (RFC 8252)'"
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l step-up-flow -d 'How to step up [default: device]' -r -f -a "device\t'URL and code, in a browser anywhere (RFC 8628)'
browser\t'Browser on this machine: code + PKCE on a loopback port (RFC 8252)'"
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l login-hint -d 'Username to suggest to the provider' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l user -d 'Name of the kubeconfig\'s user entry [default: the profile\'s name]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l context -d 'Context of the kubeconfig that shall use the user' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l cluster -d 'Cluster for --context, where that context is to be made' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l kubeconfig -d 'Kubeconfig to change [default: $KUBECONFIG, else ~/.kube/config]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l exec-api-version -d 'Version of the credential plugin protocol' -r -f -a "v1\t'`client.authentication.k8s.io/v1`, kubectl 1.22 and later'
v1beta1\t'`client.authentication.k8s.io/v1beta1`, for older clients'"
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l no-browser -d 'Only print URLs, never open a browser'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l overwrite -d 'Drop other credentials (certificates, tokens) that the user entry has'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l offline -d 'Do not ask provider and server whether they are what they should be'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l dry-run -d 'Show what would change, and change nothing'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand login" -l profile -d 'Profile to use [default: that of the kubeconfig\'s current context, else "default", else the only one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand login" -l context -d 'Context of the kubeconfig to take profile and namespace from [default: the current one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand login" -l kubeconfig -d 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand login" -l flow -d 'How to sign in [default: the profile\'s]' -r -f -a "device\t'URL and code, in a browser anywhere (RFC 8628)'
browser\t'Browser on this machine: code + PKCE on a loopback port (RFC 8252)'"
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand login" -l no-browser -d 'Only print the URL, do not open a browser'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand login" -l force -d 'Sign in again, although you are'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand login" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand logout" -l profile -d 'Profile to use [default: that of the kubeconfig\'s current context, else "default", else the only one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand logout" -l context -d 'Context of the kubeconfig to take profile and namespace from [default: the current one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand logout" -l kubeconfig -d 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand logout" -s h -l help -d 'Print help'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand status" -l profile -d 'Profile to use [default: that of the kubeconfig\'s current context, else "default", else the only one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand status" -l context -d 'Context of the kubeconfig to take profile and namespace from [default: the current one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand status" -l kubeconfig -d 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand status" -s o -l output -d 'Output format' -r -f -a "text\t'For people'
json\t'For programs'"
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l for -d 'What for, as kubectl has it: a verb, a resource and names [default: the newest refused request]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l subresource -d 'Subresource of the resource, such as status' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -s n -l namespace -d 'Namespace [default: that of the kubeconfig\'s context, else "default"]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l reason -d 'Why, for the audit log' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l ttl -d 'How long, such as 90s or 5m; the rule\'s own limit is the most' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l profile -d 'Profile to use [default: that of the kubeconfig\'s current context, else "default", else the only one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l context -d 'Context of the kubeconfig to take profile and namespace from [default: the current one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l kubeconfig -d 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -s A -l all-namespaces -d 'In all namespaces'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l cluster-scoped -d 'The custom resource has no namespaces'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l share -d 'For all of your processes, not only for this terminal'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -s h -l help -d 'Print help'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand drop" -l profile -d 'Profile to use [default: that of the kubeconfig\'s current context, else "default", else the only one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand drop" -l context -d 'Context of the kubeconfig to take profile and namespace from [default: the current one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand drop" -l kubeconfig -d 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand drop" -l all -d 'Every grant that you have, on every machine'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand drop" -s h -l help -d 'Print help'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand completion" -s h -l help -d 'Print help'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand get-token" -l profile -d 'Profile to use' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand get-token" -l reason -d 'Why protected actions of this command are needed' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand get-token" -s h -l help -d 'Print help'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand __complete" -s h -l help -d 'Print help'
