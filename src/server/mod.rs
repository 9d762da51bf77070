//! `stepup-server`: policy, webhooks, challenges and grants, tokens, audit.
