//! Elevated tokens: signing keys, their publication, and the signature.
//!
//! Keys are PEM files in one directory. Every key in it is published; the newest that has been published long enough for
//! everybody to know it signs. To rotate, put a new key file there, and remove the old one when its last token is over.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{EncodingKey, Header};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::config::Algorithm;
use crate::secret::Secret;

/// How long a new key is only published before it signs. The API server re-reads our keys when it meets one that it does
/// not know, unless it has within `max-age` less half a minute (`remoteKeySet` of its go-oidc): whatever it has read by then
/// has the new one.
const PROPAGATION: TimeDelta = TimeDelta::minutes(10);
/// Largest file that is read as a key.
const MAX_KEY_FILE: u64 = 64 * 1024;

/// Name in JOSE.
fn jose(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Es256 => "ES256",
        Algorithm::Rs256 => "RS256",
    }
}

impl From<Algorithm> for jsonwebtoken::Algorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Es256 => Self::ES256,
            Algorithm::Rs256 => Self::RS256,
        }
    }
}

/// Why there are no keys to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The directory or a file in it could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// What it is about.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else could read or replace the keys.
    #[error("{path} has mode {mode:04o}: others could use the signing keys; chmod {wanted:04o} {path}", path = path.display())]
    Exposed {
        /// File or directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What it should be.
        wanted: u32,
    },
    /// A file that is no key.
    #[error("{} is not a P-256 or RSA (2048 bits or more) private key in PKCS#8 PEM form (\"BEGIN PRIVATE KEY\")", .0.display())]
    NotAKey(PathBuf),
    /// No key for the algorithm.
    #[error("{} holds no key for {}", dir.display(), jose(*algorithm))]
    NoKey {
        /// The directory.
        dir: PathBuf,
        /// The algorithm to sign with.
        algorithm: Algorithm,
    },
    /// The cryptographic library failed.
    #[error("the cryptographic library could not {0}")]
    Crypto(&'static str),
}

/// The keys of this server, and which of them signs.
#[derive(Debug)]
pub struct Signer {
    dir: PathBuf,
    sign_with: Algorithm,
    keys: RwLock<Arc<Keys>>,
}

#[derive(Debug)]
struct Keys {
    /// All of them, oldest first.
    all: Vec<SigningKey>,
    /// Index of the one that signs.
    current: usize,
}

struct SigningKey {
    private: EncodingKey,
    algorithm: Algorithm,
    kid: String,
    since: DateTime<Utc>,
    /// The public half.
    jwk: Jwk,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).field("since", &self.since).finish_non_exhaustive()
    }
}

impl Signer {
    /// Reads the keys in `dir`. On the first start (no keys there) makes one for each algorithm.
    pub fn open(dir: &Path, sign_with: Algorithm, now: DateTime<Utc>) -> Result<Self, KeyError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))?;
        let found = read_keys(dir)?;
        if found.is_empty() {
            for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
                make_key(dir, algorithm)?;
            }
        } else if !found.iter().any(|key| key.algorithm == sign_with) {
            make_key(dir, sign_with)?;
        }
        let keys = Keys::choose(dir, sign_with, read_keys(dir)?, now)?;
        Ok(Self { dir: dir.to_owned(), sign_with, keys: RwLock::new(Arc::new(keys)) })
    }

    /// Everything that [`Signer::open`] would stumble over, without making anything. `true`: it would make a key.
    pub fn check(dir: &Path, sign_with: Algorithm) -> Result<bool, Vec<KeyError>> {
        if !dir.exists() {
            return Ok(true);
        }
        let mut problems: Vec<KeyError> = refuse_exposed_dir(dir).err().into_iter().collect();
        let mut can_sign = false;
        match key_files(dir) {
            Ok(files) => {
                for file in files {
                    match SigningKey::read(&file) {
                        Ok(key) => can_sign |= key.algorithm == sign_with,
                        Err(problem) => problems.push(problem),
                    }
                }
            }
            Err(problem) => problems.push(problem),
        }
        if problems.is_empty() { Ok(!can_sign) } else { Err(problems) }
    }

    /// Reads the directory again: keys may have come or gone, or have become old enough to sign. After a failure the
    /// keys stay as they were.
    pub fn refresh(&self, now: DateTime<Utc>) -> Result<(), KeyError> {
        let keys = Keys::choose(&self.dir, self.sign_with, read_keys(&self.dir)?, now)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(())
    }

    /// Signs `claims`.
    pub fn sign(&self, claims: &impl Serialize) -> Result<Secret, KeyError> {
        self.sign_as("JWT", claims)
    }

    /// Signs `claims`, with this `typ` in the header (RFC 7515, section 4.1.9).
    pub fn sign_as(&self, kind: &str, claims: &impl Serialize) -> Result<Secret, KeyError> {
        let keys = self.keys();
        let key = &keys.all[keys.current];
        let mut header = Header::new(key.algorithm.into());
        header.typ = Some(kind.to_owned());
        header.kid = Some(key.kid.clone());
        let token = jsonwebtoken::encode(&header, claims, &key.private).map_err(|_| KeyError::Crypto("sign"))?;
        Ok(Secret::new(token))
    }

    /// The public keys, as RFC 7517 has them.
    pub fn jwks(&self) -> Value {
        json!(JwkSet { keys: self.keys().all.iter().map(|key| key.jwk.clone()).collect() })
    }

    /// Id of the key that signs, and how many are published.
    pub fn status(&self) -> (String, usize) {
        let keys = self.keys();
        (keys.all[keys.current].kid.clone(), keys.all.len())
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The discovery document that the API server reads to trust our tokens (OIDC Discovery 3; the members that do not
/// apply to us are there because they are required).
pub fn discovery(public_url: &str) -> Value {
    let base = public_url.strip_suffix('/').unwrap_or(public_url);
    json!({
        "issuer": public_url,
        "jwks_uri": format!("{base}/jwks"),
        "token_endpoint": format!("{base}/token"),
        "token_endpoint_auth_methods_supported": ["none"],
        "grant_types_supported": [crate::wire::token::GRANT_TYPE],
        "response_types_supported": [],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256", "RS256"],
    })
}

impl Keys {
    fn choose(
        dir: &Path,
        sign_with: Algorithm,
        mut all: Vec<SigningKey>,
        now: DateTime<Utc>,
    ) -> Result<Self, KeyError> {
        all.sort_by(|a, b| (a.since, &a.kid).cmp(&(b.since, &b.kid)));
        let mut usable = all.iter().enumerate().filter(|(_, key)| key.algorithm == sign_with);
        let oldest = usable.next().ok_or_else(|| KeyError::NoKey { dir: dir.to_owned(), algorithm: sign_with })?.0;
        let current = usable
            .filter(|(_, key)| now - key.since >= PROPAGATION)
            .map(|(index, _)| index)
            .next_back()
            .unwrap_or(oldest);
        Ok(Self { all, current })
    }
}

impl SigningKey {
    /// The key in this PKCS#8 file; `None` when it is of no kind that we sign with.
    fn from_pem(pem: &[u8], since: DateTime<Utc>) -> Option<Self> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).ok()?;
        let der = der.secret_pkcs8_der();
        // Only the cryptographic library tells what kind of key it is, and whether it is sound.
        let (private, algorithm) = if EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).is_ok() {
            (EncodingKey::from_ec_pem(pem).ok()?, Algorithm::Es256)
        } else if rsa::KeyPair::from_pkcs8(der).is_ok() {
            (EncodingKey::from_rsa_pem(pem).ok()?, Algorithm::Rs256)
        } else {
            return None;
        };
        let mut jwk = Jwk::from_encoding_key(&private, algorithm.into()).ok()?;
        let kid = jwk.thumbprint(ThumbprintHash::SHA256).ok()?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Some(Self { private, algorithm, kid, since, jwk })
    }

    fn read(path: &Path) -> Result<Self, KeyError> {
        let about = fs::metadata(path).map_err(at(path))?;
        refuse_exposed(path, about.mode(), 0o077, 0o600)?;
        if about.len() > MAX_KEY_FILE {
            return Err(KeyError::NotAKey(path.to_owned()));
        }
        let pem = Zeroizing::new(fs::read(path).map_err(at(path))?);
        let since = about.modified().map_err(at(path))?;
        Self::from_pem(&pem, since.into()).ok_or_else(|| KeyError::NotAKey(path.to_owned()))
    }
}

/// The keys of the directory, each once.
fn read_keys(dir: &Path) -> Result<Vec<SigningKey>, KeyError> {
    refuse_exposed_dir(dir)?;
    let mut keys = Vec::<SigningKey>::new();
    for path in key_files(dir)? {
        let key = SigningKey::read(&path)?;
        if keys.iter().all(|other| other.kid != key.kid) {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// The `*.pem` files of the directory.
fn key_files(dir: &Path) -> Result<Vec<PathBuf>, KeyError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let path = entry.map_err(at(dir))?.path();
        if path.extension().is_some_and(|extension| extension == "pem") {
            files.push(path);
        }
    }
    Ok(files)
}

/// Whoever may write here can put in a key of their own. To see the names harms nobody.
fn refuse_exposed_dir(dir: &Path) -> Result<(), KeyError> {
    refuse_exposed(dir, fs::metadata(dir).map_err(at(dir))?.mode(), 0o022, 0o700)
}

fn refuse_exposed(path: &Path, mode: u32, forbidden: u32, wanted: u32) -> Result<(), KeyError> {
    let mode = mode & 0o7777;
    if mode & forbidden == 0 { Ok(()) } else { Err(KeyError::Exposed { path: path.to_owned(), mode, wanted }) }
}

/// Makes a key and its file. The file appears whole or not at all, and survives a power failure.
fn make_key(dir: &Path, algorithm: Algorithm) -> Result<(), KeyError> {
    let pem = pem(&generate(algorithm)?);
    let key = SigningKey::from_pem(pem.as_bytes(), DateTime::UNIX_EPOCH).ok_or(KeyError::Crypto("read its own key"))?;
    let name = format!("{}-{}", jose(algorithm).to_ascii_lowercase(), &key.kid[..8]);
    let (temporary, path) = (dir.join(format!(".{name}.tmp")), dir.join(format!("{name}.pem")));
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(at(&temporary))?;
    file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()).map_err(at(&temporary))?;
    fs::rename(&temporary, &path).map_err(at(&path))?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
}

/// A new private key, as PKCS#8.
fn generate(algorithm: Algorithm) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let failed = |_| KeyError::Crypto("make a key");
    let der = match algorithm {
        Algorithm::Es256 => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
            pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec()
        }
        Algorithm::Rs256 => {
            let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).map_err(failed)?;
            AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).map_err(failed)?.as_ref().to_vec()
        }
    };
    Ok(der.into())
}

fn pem(der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(body.len() + 128));
    text.push_str("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END PRIVATE KEY-----\n");
    text
}

fn at(path: &Path) -> impl Fn(io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::Io { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;

    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};

    use super::*;

    fn now() -> DateTime<Utc> {
        Utc::now()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn age(path: &Path, by: TimeDelta) {
        let since = SystemTime::from(now() - by);
        fs::File::options().write(true).open(path).unwrap().set_modified(since).unwrap();
    }

    #[test]
    fn the_first_start_makes_a_key_of_each_kind_that_nobody_else_can_read() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("state/keys");
        let signer = Signer::open(&dir, Algorithm::Es256, now()).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, 0o700);
        let files = names(&dir);
        assert_eq!(files.len(), 2);
        assert!(files[0].starts_with("es256-") && files[1].starts_with("rs256-"), "{files:?}");
        for file in &files {
            assert_eq!(fs::metadata(dir.join(file)).unwrap().mode() & 0o7777, 0o600);
        }
        let again = Signer::open(&dir, Algorithm::Es256, now()).unwrap();
        assert_eq!(names(&dir), files);
        assert_eq!(again.status(), signer.status());
    }

    #[test]
    fn a_check_finds_every_bad_key_and_makes_none() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("keys");
        assert!(Signer::check(&dir, Algorithm::Es256).unwrap());
        assert!(!dir.exists());

        Signer::open(&dir, Algorithm::Es256, now()).unwrap();
        assert!(!Signer::check(&dir, Algorithm::Es256).unwrap());
        let files = names(&dir);
        fs::remove_file(dir.join(&files[1])).unwrap();
        assert!(Signer::check(&dir, Algorithm::Rs256).unwrap(), "one for RS256 would be made");

        fs::set_permissions(dir.join(&files[0]), Permissions::from_mode(0o644)).unwrap();
        fs::write(dir.join("torn.pem"), "-----BEGIN PRIVATE KEY-----\n").unwrap();
        fs::set_permissions(dir.join("torn.pem"), Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
        let told: Vec<_> = Signer::check(&dir, Algorithm::Es256).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        let told = told.join("\n");
        for part in ["keys has mode 0777", ".pem has mode 0644", "torn.pem is not a P-256"] {
            assert!(told.contains(part), "{told}");
        }
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Signer::check(&file, Algorithm::Es256).is_err(), "a file for a directory");
    }

    #[test]
    fn what_is_signed_can_be_verified_with_what_is_published() {
        let home = tempfile::tempdir().unwrap();
        for (sign_with, algorithm) in
            [(Algorithm::Es256, jsonwebtoken::Algorithm::ES256), (Algorithm::Rs256, jsonwebtoken::Algorithm::RS256)]
        {
            let signer = Signer::open(&home.path().join("keys"), sign_with, now()).unwrap();
            let token = signer.sign(&json!({"sub": "alice", "exp": 4_000_000_000_u64})).unwrap();
            let header = decode_header(token.expose()).unwrap();
            assert_eq!((header.alg, header.typ.as_deref()), (algorithm, Some("JWT")));
            let keys: JwkSet = serde_json::from_value(signer.jwks()).unwrap();
            assert_eq!(keys.keys.len(), 2);
            let key = keys.find(&header.kid.unwrap()).unwrap();
            let claims: Value =
                decode(token.expose(), &DecodingKey::from_jwk(key).unwrap(), &Validation::new(algorithm))
                    .unwrap()
                    .claims;
            assert_eq!(claims["sub"], "alice");
            assert!(!signer.jwks().to_string().contains("\"d\""));
        }
    }

    #[test]
    fn the_kid_is_the_thumbprint_of_rfc_7638() {
        // The example of RFC 7638, section 3.1, by the same way: names sorted, no spaces.
        let members: serde_json::Map<String, Value> =
            [("kty", "RSA"), ("n", "0vx7"), ("e", "AQAB")].into_iter().map(|(n, v)| (n.to_owned(), v.into())).collect();
        assert_eq!(Value::Object(members).to_string(), r#"{"e":"AQAB","kty":"RSA","n":"0vx7"}"#);
        let home = tempfile::tempdir().unwrap();
        let signer = Signer::open(home.path().join("k").as_path(), Algorithm::Es256, now()).unwrap();
        let keys: JwkSet = serde_json::from_value(signer.jwks()).unwrap();
        for key in &keys.keys {
            let thumbprint = key.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap();
            assert_eq!(key.common.key_id.as_deref(), Some(thumbprint.as_str()));
        }
    }

    #[test]
    fn a_new_key_is_published_at_once_and_signs_ten_minutes_later() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("keys");
        let signer = Signer::open(&dir, Algorithm::Es256, now()).unwrap();
        let (old, published) = signer.status();
        assert_eq!(published, 2);
        for file in names(&dir) {
            age(&dir.join(file), TimeDelta::days(90));
        }
        make_key(&dir, Algorithm::Es256).unwrap();
        signer.refresh(now()).unwrap();
        assert_eq!(signer.status(), (old.clone(), 3));
        signer.refresh(now() + TimeDelta::minutes(9)).unwrap();
        assert_eq!(signer.status().0, old);
        signer.refresh(now() + TimeDelta::minutes(11)).unwrap();
        let (new, _) = signer.status();
        assert_ne!(new, old);
        assert!(signer.jwks().to_string().contains(&old));
    }

    #[test]
    fn keys_that_others_could_use_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("keys");
        let signer = Signer::open(&dir, Algorithm::Es256, now()).unwrap();
        let file = dir.join(&names(&dir)[0]);
        for mode in [0o644, 0o640, 0o602, 0o604] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let refused = Signer::open(&dir, Algorithm::Es256, now()).unwrap_err();
            assert!(matches!(refused, KeyError::Exposed { .. }), "{mode:o} {refused}");
            assert!(refused.to_string().contains("chmod 0600"), "{refused}");
            assert!(signer.refresh(now()).is_err());
            assert!(signer.sign(&json!({})).is_ok(), "the known keys stay");
        }
        fs::set_permissions(&file, Permissions::from_mode(0o400)).unwrap();
        assert!(Signer::open(&dir, Algorithm::Es256, now()).is_ok());
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        assert!(Signer::open(&dir, Algorithm::Es256, now()).is_ok());
        fs::set_permissions(&dir, Permissions::from_mode(0o775)).unwrap();
        let refused = Signer::open(&dir, Algorithm::Es256, now()).unwrap_err();
        assert!(refused.to_string().contains("chmod 0700"), "{refused}");
    }

    #[test]
    fn a_file_that_is_no_key_is_named() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("keys");
        Signer::open(&dir, Algorithm::Es256, now()).unwrap();
        fs::write(dir.join("notes.txt"), "rotate in May").unwrap();
        assert!(Signer::open(&dir, Algorithm::Es256, now()).is_ok());
        let file = dir.join("bad.pem");
        fs::write(&file, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let refused = Signer::open(&dir, Algorithm::Es256, now()).unwrap_err();
        assert!(refused.to_string().contains("bad.pem is not"), "{refused}");
    }

    #[test]
    fn discovery_has_what_the_api_server_reads() {
        let document = discovery("https://stepup.example.com/");
        assert_eq!(document["issuer"], "https://stepup.example.com/");
        assert_eq!(document["jwks_uri"], "https://stepup.example.com/jwks");
    }
}
