
using namespace System.Management.Automation
using namespace System.Management.Automation.Language

Register-ArgumentCompleter -Native -CommandName 'kubectl-stepup' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $commandElements = $commandAst.CommandElements
    $command = @(
        'kubectl-stepup'
        for ($i = 1; $i -lt $commandElements.Count; $i++) {
            $element = $commandElements[$i]
            if ($element -isnot [StringConstantExpressionAst] -or
                $element.StringConstantType -ne [StringConstantType]::BareWord -or
                $element.Value.StartsWith('-') -or
                $element.Value -eq $wordToComplete) {
                break
        }
        $element.Value
    }) -join ';'

    $completions = @(switch ($command) {
        'kubectl-stepup' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('-V', '-V ', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('--version', '--version', [CompletionResultType]::ParameterName, 'Print version')
            [CompletionResult]::new('setup', 'setup', [CompletionResultType]::ParameterValue, 'Write the profile, and put the credential plugin into the kubeconfig')
            [CompletionResult]::new('login', 'login', [CompletionResultType]::ParameterValue, 'Sign in')
            [CompletionResult]::new('logout', 'logout', [CompletionResultType]::ParameterValue, 'Sign out: drop grants, revoke the session, forget all tokens')
            [CompletionResult]::new('status', 'status', [CompletionResultType]::ParameterValue, 'Show who is signed in, live grants, and what is waiting for a step-up')
            [CompletionResult]::new('elevate', 'elevate', [CompletionResultType]::ParameterValue, 'Step up now, for what was just refused or for what you are about to do')
            [CompletionResult]::new('explain', 'explain', [CompletionResultType]::ParameterValue, 'Say what would be asked for an action, and what would be granted; asks and changes nothing')
            [CompletionResult]::new('history', 'history', [CompletionResultType]::ParameterValue, 'Show your step-ups and refusals of the last weeks')
            [CompletionResult]::new('doctor', 'doctor', [CompletionResultType]::ParameterValue, 'Find out what does not work here, and how to fix it')
            [CompletionResult]::new('run', 'run', [CompletionResultType]::ParameterValue, 'Run a program that steps up whenever the cluster asks for it: helm, k9s, terraform, a script, kubectl itself')
            [CompletionResult]::new('proxy', 'proxy', [CompletionResultType]::ParameterValue, 'Serve programs that step up whenever the cluster asks for it, until Ctrl-C')
            [CompletionResult]::new('drop', 'drop', [CompletionResultType]::ParameterValue, 'Give grants up before they expire')
            [CompletionResult]::new('completion', 'completion', [CompletionResultType]::ParameterValue, 'Print the completion script for a shell')
            [CompletionResult]::new('get-token', 'get-token', [CompletionResultType]::ParameterValue, 'Print a token for the API server (kubectl runs this; people do not)')
            [CompletionResult]::new('__complete', '__complete', [CompletionResultType]::ParameterValue, 'Complete a command line for kubectl''s own completion')
            break
        }
        'kubectl-stepup;setup' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Profile to write')
            [CompletionResult]::new('--issuer', '--issuer', [CompletionResultType]::ParameterName, 'Issuer URL of the identity provider (needed for a new profile)')
            [CompletionResult]::new('--client-id', '--client-id', [CompletionResultType]::ParameterName, 'OAuth client to sign in as (needed for a new profile)')
            [CompletionResult]::new('--client-secret-file', '--client-secret-file', [CompletionResultType]::ParameterName, 'File with the client''s secret, if the provider insists on one')
            [CompletionResult]::new('--issuer-ca', '--issuer-ca', [CompletionResultType]::ParameterName, 'PEM file of the CA behind the provider''s certificate [default: the system''s]')
            [CompletionResult]::new('--scope', '--scope', [CompletionResultType]::ParameterName, 'Scope to ask for, repeatable [default: openid offline_access profile email]')
            [CompletionResult]::new('--server', '--server', [CompletionResultType]::ParameterName, 'URL of stepup-server; without it, and without --step-up-acr, there is no step-up')
            [CompletionResult]::new('--server-ca', '--server-ca', [CompletionResultType]::ParameterName, 'PEM file of the CA behind stepup-server''s certificate [default: the system''s]')
            [CompletionResult]::new('--flow', '--flow', [CompletionResultType]::ParameterName, 'How to sign in [default: device]')
            [CompletionResult]::new('--step-up-flow', '--step-up-flow', [CompletionResultType]::ParameterName, 'How to step up [default: device]')
            [CompletionResult]::new('--preflight', '--preflight', [CompletionResultType]::ParameterName, 'Whether to look at kubectl''s command line and step up before its first request, for what is not repeated: reads and connections, and also writes in groups mode and without stepup-server [default: on]')
            [CompletionResult]::new('--step-up-method', '--step-up-method', [CompletionResultType]::ParameterName, 'How the provider is told to ask for more [default: acr-values]. Forgets the settings of another method')
            [CompletionResult]::new('--step-up-scope', '--step-up-scope', [CompletionResultType]::ParameterName, 'Scope to ask for in step-ups, beside the ordinary ones, repeatable')
            [CompletionResult]::new('--step-up-client-id', '--step-up-client-id', [CompletionResultType]::ParameterName, 'OAuth client to step up as [default: the ordinary one]')
            [CompletionResult]::new('--step-up-client-secret-file', '--step-up-client-secret-file', [CompletionResultType]::ParameterName, 'File with that client''s secret, if the provider insists on one')
            [CompletionResult]::new('--step-up-acr', '--step-up-acr', [CompletionResultType]::ParameterName, 'Without stepup-server: an acr value that the cluster accepts as a strong sign-in, repeatable')
            [CompletionResult]::new('--step-up-max-age', '--step-up-max-age', [CompletionResultType]::ParameterName, 'Without stepup-server: how long ago the strong sign-in may have been [default: 5m]')
            [CompletionResult]::new('--step-up-ttl', '--step-up-ttl', [CompletionResultType]::ParameterName, 'Without stepup-server: how long a stronger token is used [default: 5m]')
            [CompletionResult]::new('--protect', '--protect', [CompletionResultType]::ParameterName, 'Without stepup-server: what to step up for beforehand, in kubectl''s words, such as "delete namespaces" or "get secrets -n prod,prod-*"; repeatable')
            [CompletionResult]::new('--protect-file', '--protect-file', [CompletionResultType]::ParameterName, 'File with such lines')
            [CompletionResult]::new('--digest-configmap', '--digest-configmap', [CompletionResultType]::ParameterName, 'ConfigMap with such lines under the key "protected"')
            [CompletionResult]::new('--login-hint', '--login-hint', [CompletionResultType]::ParameterName, 'Username to suggest to the provider')
            [CompletionResult]::new('--user', '--user', [CompletionResultType]::ParameterName, 'Name of the kubeconfig''s user entry [default: the profile''s name]')
            [CompletionResult]::new('--context', '--context', [CompletionResultType]::ParameterName, 'Context of the kubeconfig that will use the user; in place of the user that it has now')
            [CompletionResult]::new('--cluster', '--cluster', [CompletionResultType]::ParameterName, 'Cluster for --context, if that context is to be made')
            [CompletionResult]::new('--kubeconfig', '--kubeconfig', [CompletionResultType]::ParameterName, 'Kubeconfig to change [default: $KUBECONFIG, else ~/.kube/config]')
            [CompletionResult]::new('--exec-api-version', '--exec-api-version', [CompletionResultType]::ParameterName, 'Version of the credential plugin protocol')
            [CompletionResult]::new('--try', '--try', [CompletionResultType]::ParameterName, 'Find out by signing in which way to step up works: looks at what comes back, and keeps the first that works')
            [CompletionResult]::new('--no-browser', '--no-browser', [CompletionResultType]::ParameterName, 'Only print URLs, never open a browser')
            [CompletionResult]::new('--overwrite', '--overwrite', [CompletionResultType]::ParameterName, 'Remove other credentials (certificates, tokens) from the user entry')
            [CompletionResult]::new('--offline', '--offline', [CompletionResultType]::ParameterName, 'Do not ask provider and server whether they are what they should be')
            [CompletionResult]::new('--dry-run', '--dry-run', [CompletionResultType]::ParameterName, 'Show what would change, and change nothing')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'kubectl-stepup;login' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig''s current context, else "default", else the only one]')
            [CompletionResult]::new('--context', '--context', [CompletionResultType]::ParameterName, 'Context of the kubeconfig to take profile and namespace from [default: the current one]')
            [CompletionResult]::new('--kubeconfig', '--kubeconfig', [CompletionResultType]::ParameterName, 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]')
            [CompletionResult]::new('--flow', '--flow', [CompletionResultType]::ParameterName, 'How to sign in [default: the profile''s]')
            [CompletionResult]::new('--no-browser', '--no-browser', [CompletionResultType]::ParameterName, 'Only print the URL, do not open a browser')
            [CompletionResult]::new('--force', '--force', [CompletionResultType]::ParameterName, 'Sign in again, even if you are signed in')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'kubectl-stepup;logout' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig''s current context, else "default", else the only one]')
            [CompletionResult]::new('--context', '--context', [CompletionResultType]::ParameterName, 'Context of the kubeconfig to take profile and namespace from [default: the current one]')
            [CompletionResult]::new('--kubeconfig', '--kubeconfig', [CompletionResultType]::ParameterName, 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'kubectl-stepup;status' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig''s current context, else "default", else the only one]')
            [CompletionResult]::new('--context', '--context', [CompletionResultType]::ParameterName, 'Context of the kubeconfig to take profile and namespace from [default: the current one]')
            [CompletionResult]::new('--kubeconfig', '--kubeconfig', [CompletionResultType]::ParameterName, 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]')
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'Output format')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'Output format')
            [CompletionResult]::new('--all', '--all', [CompletionResultType]::ParameterName, 'Everybody''s grants: for administrators')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'kubectl-stepup;elevate' {
            [CompletionResult]::new('--for', '--for', [CompletionResultType]::ParameterName, 'What for, in kubectl''s words: a verb, a resource and names [default: the newest refused request]')
            [CompletionResult]::new('--subresource', '--subresource', [CompletionResultType]::ParameterName, 'Subresource of the resource, such as status')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Namespace [default: that of the kubeconfig''s context, else "default"]')
            [CompletionResult]::new('--namespace', '--namespace', [CompletionResultType]::ParameterName, 'Namespace [default: that of the kubeconfig''s context, else "default"]')
            [CompletionResult]::new('--reason', '--reason', [CompletionResultType]::ParameterName, 'The reason, for the audit log')
            [CompletionResult]::new('--ttl', '--ttl', [CompletionResultType]::ParameterName, 'How long, such as 90s or 5m; never longer than the rule allows')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig''s current context, else "default", else the only one]')
            [CompletionResult]::new('--context', '--context', [CompletionResultType]::ParameterName, 'Context of the kubeconfig to take profile and namespace from [default: the current one]')
            [CompletionResult]::new('--kubeconfig', '--kubeconfig', [CompletionResultType]::ParameterName, 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]')
            [CompletionResult]::new('-A', '-A ', [CompletionResultType]::ParameterName, 'In all namespaces')
            [CompletionResult]::new('--all-namespaces', '--all-namespaces', [CompletionResultType]::ParameterName, 'In all namespaces')
            [CompletionResult]::new('--cluster-scoped', '--cluster-scoped', [CompletionResultType]::ParameterName, 'The custom resource has no namespaces')
            [CompletionResult]::new('--share', '--share', [CompletionResultType]::ParameterName, 'For all of your processes, not only for this terminal')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'kubectl-stepup;explain' {
            [CompletionResult]::new('--subresource', '--subresource', [CompletionResultType]::ParameterName, 'Subresource of the resource, such as status')
            [CompletionResult]::new('-n', '-n', [CompletionResultType]::ParameterName, 'Namespace [default: that of the kubeconfig''s context, else "default"]')
            [CompletionResult]::new('--namespace', '--namespace', [CompletionResultType]::ParameterName, 'Namespace [default: that of the kubeconfig''s context, else "default"]')
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'Output format')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'Output format')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig''s current context, else "default", else the only one]')
            [CompletionResult]::new('--context', '--context', [CompletionResultType]::ParameterName, 'Context of the kubeconfig to take profile and namespace from [default: the current one]')
            [CompletionResult]::new('--kubeconfig', '--kubeconfig', [CompletionResultType]::ParameterName, 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]')
            [CompletionResult]::new('-A', '-A ', [CompletionResultType]::ParameterName, 'In all namespaces')
            [CompletionResult]::new('--all-namespaces', '--all-namespaces', [CompletionResultType]::ParameterName, 'In all namespaces')
            [CompletionResult]::new('--cluster-scoped', '--cluster-scoped', [CompletionResultType]::ParameterName, 'The custom resource has no namespaces')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'kubectl-stepup;history' {
            [CompletionResult]::new('--limit', '--limit', [CompletionResultType]::ParameterName, 'How many entries')
            [CompletionResult]::new('--user', '--user', [CompletionResultType]::ParameterName, 'Somebody else''s, as the cluster knows them: for administrators')
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'Output format')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'Output format')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig''s current context, else "default", else the only one]')
            [CompletionResult]::new('--context', '--context', [CompletionResultType]::ParameterName, 'Context of the kubeconfig to take profile and namespace from [default: the current one]')
            [CompletionResult]::new('--kubeconfig', '--kubeconfig', [CompletionResultType]::ParameterName, 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'kubectl-stepup;doctor' {
            [CompletionResult]::new('-o', '-o', [CompletionResultType]::ParameterName, 'Output format')
            [CompletionResult]::new('--output', '--output', [CompletionResultType]::ParameterName, 'Output format')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig''s current context, else "default", else the only one]')
            [CompletionResult]::new('--context', '--context', [CompletionResultType]::ParameterName, 'Context of the kubeconfig to take profile and namespace from [default: the current one]')
            [CompletionResult]::new('--kubeconfig', '--kubeconfig', [CompletionResultType]::ParameterName, 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]')
            [CompletionResult]::new('--step-up', '--step-up', [CompletionResultType]::ParameterName, 'Try a step-up too: signs you in once, keeps nothing and grants nothing')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help (see more with ''--help'')')
            break
        }
        'kubectl-stepup;run' {
            [CompletionResult]::new('--reason', '--reason', [CompletionResultType]::ParameterName, 'Why protected actions are needed, for rules that want a reason')
            [CompletionResult]::new('--replay-limit', '--replay-limit', [CompletionResultType]::ParameterName, 'How much of a request to keep, to be able to repeat it after a step-up, such as 512Ki or 64Mi [default: 4Mi]')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig''s current context, else "default", else the only one]')
            [CompletionResult]::new('--context', '--context', [CompletionResultType]::ParameterName, 'Context of the kubeconfig to take profile and namespace from [default: the current one]')
            [CompletionResult]::new('--kubeconfig', '--kubeconfig', [CompletionResultType]::ParameterName, 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'kubectl-stepup;proxy' {
            [CompletionResult]::new('--kubeconfig-out', '--kubeconfig-out', [CompletionResultType]::ParameterName, 'Where to write the kubeconfig [default: a file of its own in a private directory]')
            [CompletionResult]::new('--for', '--for', [CompletionResultType]::ParameterName, 'How long to serve, such as 90s, 30m or 8h [default: until Ctrl-C]')
            [CompletionResult]::new('--reason', '--reason', [CompletionResultType]::ParameterName, 'Why protected actions are needed, for rules that want a reason')
            [CompletionResult]::new('--replay-limit', '--replay-limit', [CompletionResultType]::ParameterName, 'How much of a request to keep, to be able to repeat it after a step-up, such as 512Ki or 64Mi [default: 4Mi]')
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig''s current context, else "default", else the only one]')
            [CompletionResult]::new('--context', '--context', [CompletionResultType]::ParameterName, 'Context of the kubeconfig to take profile and namespace from [default: the current one]')
            [CompletionResult]::new('--kubeconfig', '--kubeconfig', [CompletionResultType]::ParameterName, 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'kubectl-stepup;drop' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig''s current context, else "default", else the only one]')
            [CompletionResult]::new('--context', '--context', [CompletionResultType]::ParameterName, 'Context of the kubeconfig to take profile and namespace from [default: the current one]')
            [CompletionResult]::new('--kubeconfig', '--kubeconfig', [CompletionResultType]::ParameterName, 'Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]')
            [CompletionResult]::new('--all', '--all', [CompletionResultType]::ParameterName, 'Every grant that you have, on every machine')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'kubectl-stepup;completion' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'kubectl-stepup;get-token' {
            [CompletionResult]::new('--profile', '--profile', [CompletionResultType]::ParameterName, 'Profile to use')
            [CompletionResult]::new('--reason', '--reason', [CompletionResultType]::ParameterName, 'Why protected actions of this command are needed')
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
        'kubectl-stepup;__complete' {
            [CompletionResult]::new('-h', '-h', [CompletionResultType]::ParameterName, 'Print help')
            [CompletionResult]::new('--help', '--help', [CompletionResultType]::ParameterName, 'Print help')
            break
        }
    })

    $completions.Where{ $_.CompletionText -like "$wordToComplete*" } |
        Sort-Object -Property ListItemText
}
