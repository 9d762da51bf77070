// The lab's OpenID provider: the npm package oidc-provider over TLS, with people who have a password and perhaps a TOTP secret.
// Configured by environment; prints one line when it is ready.
import { createPrivateKey, randomUUID } from 'node:crypto';
import { appendFileSync, readFileSync } from 'node:fs';
import https from 'node:https';

import Provider, { interactionPolicy } from 'oidc-provider';

import { handle, MULTI_FACTOR, needsSecondFactor, PASSWORD, respond } from './interactions.mjs';
import * as pages from './pages.mjs';
import { account } from './people.mjs';

const env = (name) => {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
};
const seconds = (name, fallback) => Number(process.env[name] ?? fallback);

const issuer = env('LAB_ISSUER');
const clientId = env('LAB_CLIENT_ID');
const pollInterval = seconds('LAB_DEVICE_INTERVAL', 1);

/** Signing keys, the signing one first; the others are only published, as during a rotation. */
const signingKeys = env('LAB_PROVIDER_SIGNING_KEYS').split(':').map((file) => {
  const key = createPrivateKey(readFileSync(file)).export({ format: 'jwk' });
  return { ...key, use: 'sig', alg: key.kty === 'EC' ? 'ES256' : 'RS256' };
});

// `acr_values` is a voluntary request (OIDC Core 3.1.2.1), which the library leaves to us to honour.
const { base, Check } = interactionPolicy;
const policy = base();
policy.get('login').checks.add(new Check(
  'acr_values',
  'the session is weaker than what was asked for',
  ({ oidc }) => (needsSecondFactor(oidc.params) && oidc.acr !== MULTI_FACTOR && !oidc.result?.login
    ? Check.REQUEST_PROMPT
    : Check.NO_NEED_TO_PROMPT),
));

const provider = new Provider(issuer, {
  clients: [{
    client_id: clientId,
    client_name: 'kubectl',
    application_type: 'native',
    token_endpoint_auth_method: 'none',
    grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
    response_types: ['code'],
    // Any port of the loopback interface will do (RFC 8252, section 7.3); the path has to be one of these.
    redirect_uris: ['', '/', '/callback'].flatMap((path) => [`http://127.0.0.1${path}`, `http://localhost${path}`]),
    id_token_signed_response_alg: signingKeys[0].alg,
  }],
  jwks: { keys: signingKeys },
  acrValues: [PASSWORD, MULTI_FACTOR],
  scopes: ['openid', 'offline_access', 'profile', 'email', 'groups'],
  claims: {
    openid: ['sub', 'groups', 'acr', 'amr', 'auth_time', 'jti'],
    profile: ['name', 'preferred_username'],
    email: ['email', 'email_verified'],
    groups: ['groups'],
  },
  // Everything belongs in the ID token: the API server never asks the userinfo endpoint.
  conformIdTokenClaims: false,
  findAccount: (_ctx, sub) => (account(sub) ? {
    accountId: sub,
    claims: async () => ({
      sub,
      name: sub,
      preferred_username: sub,
      email: `${sub}@example.test`,
      email_verified: true,
      groups: account(sub).groups,
      // Ends up in the API server's `credential-id`, so that a challenge can be tied to this token.
      jti: randomUUID(),
    }),
  } : undefined),
  cookies: { keys: [randomUUID()] },
  ttl: {
    AccessToken: 300,
    AuthorizationCode: 60,
    DeviceCode: seconds('LAB_TTL_DEVICE_CODE', 300),
    Grant: 86_400,
    IdToken: seconds('LAB_TTL_ID_TOKEN', 900),
    Interaction: 600,
    RefreshToken: seconds('LAB_TTL_REFRESH_TOKEN', 86_400),
    Session: 86_400,
  },
  rotateRefreshToken: true,
  issueRefreshToken: async (_ctx, client) => client.grantTypeAllowed('refresh_token'),
  pkce: { required: () => true },
  interactions: { policy, url: (_ctx, { uid }) => `/interaction/${uid}` },
  renderError: (ctx, out) => {
    ctx.type = 'html';
    ctx.body = pages.failure({ message: out.error_description ?? out.error });
  },
  features: {
    devInteractions: { enabled: false },
    claimsParameter: { enabled: true },
    revocation: { enabled: true },
    deviceFlow: {
      enabled: true,
      userCodeInputSource: (ctx, form, _out, error) => {
        ctx.body = pages.userCode({ form, error: error && deviceError(error) });
      },
      userCodeConfirmSource: (ctx, form, client, _deviceInfo, code) => {
        ctx.body = pages.confirmUserCode({ form, client: client.clientName, code });
      },
      successSource: (ctx) => {
        ctx.body = pages.deviceDone();
      },
    },
  },
});

function deviceError({ name }) {
  return name === 'AbortedError' ? 'You said no.' : 'This code is unknown, used or expired.';
}

// The library leaves `interval` out, which makes clients wait five seconds between polls (RFC 8628, section 3.2).
provider.use(async (ctx, next) => {
  await next();
  if (ctx.oidc?.route === 'device_authorization' && ctx.status === 200) {
    ctx.body.interval = pollInterval;
  }
});

// A test that looks for leaks has to know what must not leak: a line for each secret, both those given and those shown.
const secretsFile = process.env.LAB_PROVIDER_SECRETS;
const SECRETS = ['device_code', 'code', 'code_verifier', 'id_token', 'access_token', 'refresh_token'];
provider.use(async (ctx, next) => {
  await next();
  if (!secretsFile || !['device_authorization', 'token'].includes(ctx.oidc?.route)) return;
  for (const source of [ctx.oidc.params, ctx.body]) {
    const found = SECRETS.filter((name) => typeof source?.[name] === 'string');
    appendFileSync(secretsFile, found.map((name) => `${name} ${source[name]}\n`).join(''));
  }
});

provider.on('server_error', (_ctx, error) => console.error('server error:', error));
for (const event of ['authorization', 'device_authorization', 'grant', 'interaction', 'revocation']) {
  provider.on(`${event}.error`, (_ctx, error) => {
    if (error.error !== 'authorization_pending') {
      console.error(`${event}:`, error.message, error.error_description ?? '', error.error_detail ?? '');
    }
  });
}

const library = provider.callback();
const tls = { cert: readFileSync(env('LAB_PROVIDER_CERTIFICATE')), key: readFileSync(env('LAB_PROVIDER_KEY')) };
const server = https.createServer(tls, (req, res) => {
  if (!req.url.startsWith('/interaction/')) return library(req, res);
  return handle(provider, req, res).catch((error) => respond(res, 400, pages.failure({ message: error.message })));
});
server.listen(Number(new URL(issuer).port), '127.0.0.1', () => console.log(`ready at ${issuer}`));
