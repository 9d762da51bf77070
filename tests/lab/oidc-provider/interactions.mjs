// What happens between "sign in" and "signed in": password, one-time code, consent.
import * as pages from './pages.mjs';
import { account } from './people.mjs';
import { isValidCode } from './totp.mjs';

/** Authentication context classes, weakest first. */
export const PASSWORD = 'urn:stepup:pwd';
export const MULTI_FACTOR = 'urn:stepup:mfa';

const MAX_FORM_BYTES = 10_000;
/** Interaction → who has passed the password and still owes the one-time code. */
const awaitingCode = new Map();

/** Classes that the request asks for: `acr_values`, or `acr` of the `claims` parameter. */
export function requestedClasses(params) {
  let acr;
  try {
    acr = JSON.parse(params.claims ?? '{}').id_token?.acr;
  } catch {
    // The library answers malformed claims with an error of its own.
  }
  return [...(params.acr_values?.split(' ') ?? []), acr?.value, ...(acr?.values ?? [])]
    .filter((value) => value === PASSWORD || value === MULTI_FACTOR);
}

/** Whether a password alone does not answer the request. */
export function needsSecondFactor(params) {
  const classes = requestedClasses(params);
  return classes.includes(MULTI_FACTOR) && !classes.includes(PASSWORD);
}

export function respond(res, status, html) {
  res.writeHead(status, { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' });
  res.end(html);
}

async function readForm(req) {
  let text = '';
  for await (const chunk of req) {
    text += chunk;
    if (text.length > MAX_FORM_BYTES) throw new Error('the form is too large');
  }
  return new URLSearchParams(text);
}

export async function handle(provider, req, res) {
  const interaction = await provider.interactionDetails(req, res);
  const form = req.method === 'POST' ? await readForm(req) : undefined;
  const finish = (result) => {
    awaitingCode.delete(interaction.uid);
    return provider.interactionFinished(req, res, result, { mergeWithLastSubmission: Boolean(result.consent) });
  };

  if (form?.has('deny')) {
    return finish({ error: 'access_denied', error_description: 'the person said no' });
  }
  if (interaction.prompt.name === 'consent') {
    return consent(provider, interaction, form, res, finish);
  }
  return signIn(interaction, form, res, finish);
}

async function signIn({ uid, params }, form, res, finish) {
  const strong = needsSecondFactor(params);

  if (form?.has('password')) {
    const username = form.get('username');
    const person = account(username);
    if (person?.password !== form.get('password')) {
      return respond(res, 401, pages.password({ hint: username, error: 'Wrong username or password.', strong }));
    }
    if (!strong) {
      return finish({ login: { accountId: username, acr: PASSWORD, amr: ['pwd'] } });
    }
    if (!person.totpSecret) {
      return finish({ error: 'access_denied', error_description: 'no second factor is enrolled' });
    }
    awaitingCode.set(uid, username);
    return respond(res, 200, pages.oneTimeCode({}));
  }

  if (form?.has('code') && awaitingCode.has(uid)) {
    const username = awaitingCode.get(uid);
    if (!isValidCode(account(username).totpSecret, form.get('code'))) {
      return respond(res, 401, pages.oneTimeCode({ error: 'Wrong code.' }));
    }
    return finish({ login: { accountId: username, acr: MULTI_FACTOR, amr: ['pwd', 'otp', 'mfa'] } });
  }

  return respond(res, 200, pages.password({ hint: params.login_hint, strong }));
}

async function consent(provider, { grantId, session, params }, form, res, finish) {
  if (!form?.has('allow')) {
    return respond(res, 200, pages.consent({ client: params.client_id, scopes: params.scope }));
  }
  const grant = (grantId && await provider.Grant.find(grantId))
    || new provider.Grant({ clientId: params.client_id, accountId: session.accountId });
  grant.addOIDCScope(params.scope);
  return finish({ consent: { grantId: await grant.save() } });
}
