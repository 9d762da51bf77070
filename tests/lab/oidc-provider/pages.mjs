// Every page a person sees. Plain HTML: the lab's browser fills the forms, and so can a person.

const escape = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

const page = (title, body) => `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}</title>
<style>body{font:16px/1.5 sans-serif;max-width:24em;margin:3em auto;padding:0 1em}input,button{font:inherit;display:block;width:100%;box-sizing:border-box;margin:.4em 0 1em;padding:.5em}.error{color:#b00020}</style>
</head>
<body>
<h1>${escape(title)}</h1>
${body}
</body>
</html>`;

const notice = (error) => (error ? `<p class="error" role="alert">${escape(error)}</p>` : '');
const deny = '<button name="deny" value="yes" formnovalidate>Deny</button>';

export const password = ({ hint = '', error, strong }) => page('Sign in', `${notice(error)}
${strong ? '<p>A stronger sign-in was asked for: you will need your one-time code.</p>' : ''}
<form method="post" data-step="password">
<label>Username <input name="username" value="${escape(hint)}" autocomplete="username" required></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required autofocus></label>
<button>Sign in</button>
${deny}
</form>`);

export const oneTimeCode = ({ error }) => page('One-time code', `${notice(error)}
<form method="post" data-step="one-time-code">
<label>Code <input name="code" inputmode="numeric" autocomplete="one-time-code" required autofocus></label>
<button>Verify</button>
${deny}
</form>`);

export const consent = ({ client, scopes }) => page('Allow access', `<p><b>${escape(client)}</b> wants: ${escape(scopes)}.</p>
<form method="post" data-step="consent">
<input type="hidden" name="allow" value="yes">
<button>Allow</button>
${deny}
</form>`);

export const userCode = ({ form, error }) => page('Device sign-in', `${notice(error)}
<p>Enter the code that your device shows.</p>
${form}
<button form="op.deviceInputForm">Continue</button>`);

export const confirmUserCode = ({ form, client, code }) => page('Device sign-in', `<p><b>${escape(client)}</b> shows this code:</p>
<p><code>${escape(code)}</code></p>
${form}
<button form="op.deviceConfirmForm">Continue</button>
<button form="op.deviceConfirmForm" name="abort" value="yes">Deny</button>`);

export const deviceDone = () => page('Signed in', '<p data-step="done">You can close this page and go back to your terminal.</p>');

export const failure = ({ message }) => page('Sign-in failed', `<p class="error" data-step="failed">${escape(message)}</p>`);
