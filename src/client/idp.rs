//! The identity provider: OpenID Connect sign-in, refresh and revocation.
