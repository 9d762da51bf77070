// Time-based one-time passwords (RFC 6238: HMAC-SHA-1, 30 seconds, 6 digits).
import { createHmac, timingSafeEqual } from 'node:crypto';

const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
const STEP_SECONDS = 30;

function decodeBase32(text) {
  const bytes = [];
  let buffer = 0;
  let bits = 0;
  for (const letter of text) {
    buffer = ((buffer << 5) | ALPHABET.indexOf(letter)) & 0xfff;
    bits += 5;
    if (bits >= 8) {
      bits -= 8;
      bytes.push((buffer >> bits) & 0xff);
    }
  }
  return Buffer.from(bytes);
}

function codeAt(secret, counter) {
  const message = Buffer.alloc(8);
  message.writeBigUInt64BE(BigInt(counter));
  const digest = createHmac('sha1', decodeBase32(secret)).update(message).digest();
  const offset = digest[digest.length - 1] & 0x0f;
  const number = (digest.readUInt32BE(offset) & 0x7fffffff) % 1_000_000;
  return String(number).padStart(6, '0');
}

/** Whether `code` is right now, or was or will be one step away (clocks differ). */
export function isValidCode(secret, code, now = Date.now()) {
  const counter = Math.floor(now / 1000 / STEP_SECONDS);
  const given = Buffer.from(code.padEnd(6).slice(0, 6));
  return code.length === 6
    && [-1, 0, 1].some((drift) => timingSafeEqual(Buffer.from(codeAt(secret, counter + drift)), given));
}
