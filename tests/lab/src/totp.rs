//! Time-based one-time passwords (RFC 6238: HMAC-SHA-1, 30 seconds, 6 digits).

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use aws_lc_rs::hmac;

const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const STEP_SECONDS: u64 = 30;

/// The code of `secret` (base32) right now.
pub fn current_code(secret: &str) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    code_at(secret, now)
}

fn code_at(secret: &str, unix_seconds: u64) -> Result<String> {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &decode_base32(secret)?);
    let digest = hmac::sign(&key, &(unix_seconds / STEP_SECONDS).to_be_bytes());
    let digest = digest.as_ref();
    let offset = usize::from(digest[digest.len() - 1] & 0x0f);
    let number = u32::from_be_bytes(digest[offset..offset + 4].try_into()?) & 0x7fff_ffff;
    Ok(format!("{:06}", number % 1_000_000))
}

fn decode_base32(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut buffer, mut bits) = (0_usize, 0);
    for letter in text.chars() {
        let value = ALPHABET.find(letter).with_context(|| format!("{letter:?} is not base32"))?;
        buffer = (buffer << 5 | value) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(buffer >> bits & 0xff)?);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B (its SHA-1 column, cut to six digits).
    #[test]
    fn codes_are_those_of_the_rfc() {
        let secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
        for (seconds, code) in [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")] {
            assert_eq!(code_at(secret, seconds).expect("a code"), code);
        }
    }
}
