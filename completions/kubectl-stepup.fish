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
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "explain" -d 'Say what would be asked for an action, and what would be granted; asks and changes nothing'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "history" -d 'Show your step-ups and refusals of the last weeks'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "doctor" -d 'Find out what does not work here, and how to fix it'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "run" -d 'Run a program that steps up whenever the cluster asks for it: helm, k9s, terraform, a script, kubectl itself'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "proxy" -d 'Serve programs that step up whenever the cluster asks for it, until Ctrl-C'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "drop" -d 'Give grants up before they expire'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "completion" -d 'Print the completion script for a shell'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "get-token" -d 'Print a token for the API server (kubectl runs this; people do not)'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_needs_command" -f -a "__complete" -d 'Complete a command line for kubectl\'s own completion'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l profile -d 'Profile to write' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l issuer -d 'Issuer URL of the identity provider (needed for a new profile)' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l client-id -d 'OAuth client to sign in as (needed for a new profile)' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l client-secret-file -d 'File with the client\'s secret, if the provider insists on one' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l issuer-ca -d 'PEM file of the CA behind the provider\'s certificate [default: the system\'s]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l scope -d 'Scope to ask for, repeatable [default: openid offline_access profile email]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l server -d 'URL of stepup-server; without it, and without --step-up-acr, there is no step-up' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l server-ca -d 'PEM file of the CA behind stepup-server\'s certificate [default: the system\'s]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l flow -d 'How to sign in [default: device]' -r -f -a "device\t'URL and code, in a browser anywhere (RFC 8628)'
browser\t'Browser on this machine: code + PKCE on a loopback port (RFC 8252)'"
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l step-up-flow -d 'How to step up [default: device]' -r -f -a "device\t'URL and code, in a browser anywhere (RFC 8628)'
browser\t'Browser on this machine: code + PKCE on a loopback port (RFC 8252)'"
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l preflight -d 'Whether to look at kubectl\'s command line and step up before its first request, for what is not repeated: reads and connections, and also writes in groups mode and without stepup-server [default: on]' -r -f -a "on\t'On'
off\t'Off'"
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l step-up-method -d 'How the provider is told to ask for more [default: acr-values]. Forgets the settings of another method' -r -f -a "acr-values\t'`acr_values` name the wanted class (OpenID Connect Core 3.1.2.1)'
scope\t'An extra scope that the provider binds to a stronger sign-in'
client\t'Another client that the provider binds to a stronger sign-in'"
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l step-up-scope -d 'Scope to ask for in step-ups, beside the ordinary ones, repeatable' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l step-up-client-id -d 'OAuth client to step up as [default: the ordinary one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l step-up-client-secret-file -d 'File with that client\'s secret, if the provider insists on one' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l step-up-acr -d 'Without stepup-server: an acr value that the cluster accepts as a strong sign-in, repeatable' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l step-up-max-age -d 'Without stepup-server: how long ago the strong sign-in may have been [default: 5m]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l step-up-ttl -d 'Without stepup-server: how long a stronger token is used [default: 5m]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l protect -d 'Without stepup-server: what to step up for beforehand, in kubectl\'s words, such as "delete namespaces" or "get secrets -n prod,prod-*"; repeatable' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l protect-file -d 'File with such lines' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l digest-configmap -d 'ConfigMap with such lines under the key "protected"' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l login-hint -d 'Username to suggest to the provider' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l user -d 'Name of the kubeconfig\'s user entry [default: the profile\'s name]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l context -d 'Context of the kubeconfig that will use the user; in place of the user that it has now' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l cluster -d 'Cluster for --context, if that context is to be made' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l kubeconfig -d 'Kubeconfig to change [default: $KUBECONFIG, else ~/.kube/config]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l exec-api-version -d 'Version of the credential plugin protocol' -r -f -a "v1\t'`client.authentication.k8s.io/v1`, kubectl 1.22 and later'
v1beta1\t'`client.authentication.k8s.io/v1beta1`, for older clients'"
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l try -d 'Find out by signing in which way to step up works: looks at what comes back, and keeps the first that works'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l no-browser -d 'Only print URLs, never open a browser'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l overwrite -d 'Remove other credentials (certificates, tokens) from the user entry'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l offline -d 'Do not ask provider and server whether they are what they should be'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -l dry-run -d 'Show what would change, and change nothing'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand setup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand login" -l profile -d 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig\'s current context, else "default", else the only one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand login" -l context -d 'Context of the kubeconfig to take profile and namespace from [default: the current one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand login" -l kubeconfig -d 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand login" -l flow -d 'How to sign in [default: the profile\'s]' -r -f -a "device\t'URL and code, in a browser anywhere (RFC 8628)'
browser\t'Browser on this machine: code + PKCE on a loopback port (RFC 8252)'"
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand login" -l no-browser -d 'Only print the URL, do not open a browser'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand login" -l force -d 'Sign in again, even if you are signed in'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand login" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand logout" -l profile -d 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig\'s current context, else "default", else the only one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand logout" -l context -d 'Context of the kubeconfig to take profile and namespace from [default: the current one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand logout" -l kubeconfig -d 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand logout" -s h -l help -d 'Print help'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand status" -l profile -d 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig\'s current context, else "default", else the only one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand status" -l context -d 'Context of the kubeconfig to take profile and namespace from [default: the current one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand status" -l kubeconfig -d 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand status" -s o -l output -d 'Output format' -r -f -a "text\t'For people'
json\t'For programs'"
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand status" -l all -d 'Everybody\'s grants: for administrators'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l for -d 'What for, in kubectl\'s words: a verb, a resource and names [default: the newest refused request]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l subresource -d 'Subresource of the resource, such as status' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -s n -l namespace -d 'Namespace [default: that of the kubeconfig\'s context, else "default"]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l reason -d 'The reason, for the audit log' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l ttl -d 'How long, such as 90s or 5m; never longer than the rule allows' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l profile -d 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig\'s current context, else "default", else the only one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l context -d 'Context of the kubeconfig to take profile and namespace from [default: the current one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l kubeconfig -d 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -s A -l all-namespaces -d 'In all namespaces'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l cluster-scoped -d 'The custom resource has no namespaces'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -l share -d 'For all of your processes, not only for this terminal'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand elevate" -s h -l help -d 'Print help'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand explain" -l subresource -d 'Subresource of the resource, such as status' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand explain" -s n -l namespace -d 'Namespace [default: that of the kubeconfig\'s context, else "default"]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand explain" -s o -l output -d 'Output format' -r -f -a "text\t'For people'
json\t'For programs'"
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand explain" -l profile -d 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig\'s current context, else "default", else the only one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand explain" -l context -d 'Context of the kubeconfig to take profile and namespace from [default: the current one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand explain" -l kubeconfig -d 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand explain" -s A -l all-namespaces -d 'In all namespaces'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand explain" -l cluster-scoped -d 'The custom resource has no namespaces'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand explain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand history" -l limit -d 'How many entries' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand history" -l user -d 'Somebody else\'s, as the cluster knows them: for administrators' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand history" -s o -l output -d 'Output format' -r -f -a "text\t'For people'
json\t'For programs'"
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand history" -l profile -d 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig\'s current context, else "default", else the only one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand history" -l context -d 'Context of the kubeconfig to take profile and namespace from [default: the current one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand history" -l kubeconfig -d 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand history" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand doctor" -s o -l output -d 'Output format' -r -f -a "text\t'For people'
json\t'For programs'"
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand doctor" -l profile -d 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig\'s current context, else "default", else the only one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand doctor" -l context -d 'Context of the kubeconfig to take profile and namespace from [default: the current one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand doctor" -l kubeconfig -d 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand doctor" -l step-up -d 'Try a step-up too: signs you in once, keeps nothing and grants nothing'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand run" -l reason -d 'Why protected actions are needed, for rules that want a reason' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand run" -l replay-limit -d 'How much of a request to keep, to be able to repeat it after a step-up, such as 512Ki or 64Mi [default: 4Mi]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand run" -l profile -d 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig\'s current context, else "default", else the only one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand run" -l context -d 'Context of the kubeconfig to take profile and namespace from [default: the current one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand run" -l kubeconfig -d 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand run" -s h -l help -d 'Print help'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand proxy" -l kubeconfig-out -d 'Where to write the kubeconfig [default: a file of its own in a private directory]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand proxy" -l for -d 'How long to serve, such as 90s, 30m or 8h [default: until Ctrl-C]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand proxy" -l reason -d 'Why protected actions are needed, for rules that want a reason' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand proxy" -l replay-limit -d 'How much of a request to keep, to be able to repeat it after a step-up, such as 512Ki or 64Mi [default: 4Mi]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand proxy" -l profile -d 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig\'s current context, else "default", else the only one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand proxy" -l context -d 'Context of the kubeconfig to take profile and namespace from [default: the current one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand proxy" -l kubeconfig -d 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand proxy" -s h -l help -d 'Print help'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand drop" -l profile -d 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig\'s current context, else "default", else the only one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand drop" -l context -d 'Context of the kubeconfig to take profile and namespace from [default: the current one]' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand drop" -l kubeconfig -d 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]' -r -F
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand drop" -l all -d 'Every grant that you have, on every machine'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand drop" -s h -l help -d 'Print help'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand completion" -s h -l help -d 'Print help'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand get-token" -l profile -d 'Profile to use' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand get-token" -l reason -d 'Why protected actions of this command are needed' -r
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand get-token" -s h -l help -d 'Print help'
complete -c kubectl-stepup -n "__fish_kubectl_stepup_using_subcommand __complete" -s h -l help -d 'Print help'
