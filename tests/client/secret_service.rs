//! A Secret Service (the keyring of Linux desktops) on a bus of its own: what it holds, and who has to unlock it.
//!
//! <https://specifications.freedesktop.org/secret-service-spec/latest/>

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use aws_lc_rs::cipher::{
    AES_128, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zbus::object_server::SignalEmitter;
use zbus::zvariant::{ObjectPath, OwnedObjectPath, OwnedValue, Value};
use zbus::{ObjectServer, blocking, fdo, interface};

const SERVICE: &str = "/org/freedesktop/secrets";
const COLLECTION: &str = "/org/freedesktop/secrets/collection/login";
const PROMPT: &str = "/org/freedesktop/secrets/prompt/1";
const NOTHING: &str = "/";

/// What happens to whoever wants something of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// It is unlocked, and answers.
    #[default]
    Open,
    /// It is locked, and asks on a screen that nobody looks at.
    Locked,
    /// It is locked, and somebody types the password after so long.
    UnlockedAfter(Duration),
    /// It is locked, and whoever is asked for the password closes the window.
    Dismissed,
    /// It takes calls and answers none.
    Mute,
}

/// A secret under way: session, initialization vector, ciphertext, content type.
type Sealed = (OwnedObjectPath, Vec<u8>, Vec<u8>, String);

#[derive(Debug)]
struct Kept {
    attributes: HashMap<String, String>,
    secret: Vec<u8>,
}

#[derive(Default)]
struct State {
    mood: Mood,
    items: HashMap<String, Kept>,
    created: usize,
    /// Keys of the sessions.
    keys: HashMap<String, Vec<u8>>,
}

type Shared = Arc<Mutex<State>>;

pub struct SecretService {
    address: String,
    state: Shared,
    connection: blocking::Connection,
    _bus: Bus,
}

impl SecretService {
    /// Starts one, with its bus, in `directory`.
    pub fn start(directory: &Path) -> Self {
        let bus = Bus::start(directory);
        let state = Shared::default();
        let connection = blocking::connection::Builder::address(bus.address.as_str())
            .and_then(|builder| builder.serve_at(SERVICE, Service(Arc::clone(&state))))
            .and_then(|builder| builder.serve_at(COLLECTION, Collection(Arc::clone(&state))))
            .and_then(|builder| builder.serve_at(PROMPT, Prompt(Arc::clone(&state))))
            .and_then(|builder| builder.name("org.freedesktop.secrets"))
            .and_then(blocking::connection::Builder::build)
            .unwrap();
        Self { address: bus.address.clone(), state, connection, _bus: bus }
    }

    /// `DBUS_SESSION_BUS_ADDRESS`.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn set(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    /// It is gone; the bus is still there.
    pub fn withdraw(&self) {
        self.connection.release_name("org.freedesktop.secrets").unwrap();
    }

    /// The secrets that it holds, with the user that each is filed under.
    pub fn secrets(&self) -> Vec<(String, String)> {
        let state = self.state.lock().unwrap();
        let text = |kept: &Kept| String::from_utf8(kept.secret.clone()).unwrap();
        state.items.values().map(|kept| (kept.attributes["username"].clone(), text(kept))).collect()
    }

    /// How many items were ever made.
    pub fn created(&self) -> usize {
        self.state.lock().unwrap().created
    }
}

/// A message bus that nobody else is on.
struct Bus {
    address: String,
    daemon: Child,
}

impl Bus {
    fn start(directory: &Path) -> Self {
        let config = directory.join("bus.conf");
        let listen = directory.join("bus").display().to_string();
        fs::write(
            &config,
            format!(
                r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={listen}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"#
            ),
        )
        .unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nosyslog", "--print-address=1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        assert!(address.starts_with("unix:"), "dbus-daemon did not start: {address:?}");
        Self { address: address.trim().to_owned(), daemon }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn path(text: &str) -> OwnedObjectPath {
    ObjectPath::try_from(text.to_owned()).unwrap().into()
}

/// Whatever is asked of a mute one, no answer comes.
async fn answering(state: &Shared) -> MutexGuard<'_, State> {
    if state.lock().unwrap().mood == Mood::Mute {
        std::future::pending::<()>().await;
    }
    state.lock().unwrap()
}

impl State {
    fn is_locked(&self) -> bool {
        self.mood != Mood::Open
    }

    fn matching(&self, attributes: &HashMap<String, String>) -> Vec<OwnedObjectPath> {
        let fits = |kept: &Kept| attributes.iter().all(|(name, value)| kept.attributes.get(name) == Some(value));
        self.items.iter().filter(|(_, kept)| fits(kept)).map(|(name, _)| path(name)).collect()
    }

    fn key(&self, session: &OwnedObjectPath) -> UnboundCipherKey {
        UnboundCipherKey::new(&AES_128, &self.keys[session.as_str()]).unwrap()
    }

    fn unsealed(&self, (session, iv, value, _): &Sealed) -> Vec<u8> {
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(self.key(session)).unwrap();
        let iv: [u8; 16] = iv.as_slice().try_into().unwrap();
        let mut value = value.clone();
        key.decrypt(&mut value, DecryptionContext::Iv128((&iv).into())).unwrap().to_vec()
    }

    fn sealed(&self, secret: &[u8], session: OwnedObjectPath) -> Sealed {
        let key = PaddedBlockEncryptingKey::cbc_pkcs7(self.key(&session)).unwrap();
        let mut value = secret.to_vec();
        let DecryptionContext::Iv128(iv) = key.encrypt(&mut value).unwrap() else { panic!("CBC has a vector") };
        (session, iv.as_ref().to_vec(), value, "application/octet-stream".to_owned())
    }
}

struct Service(Shared);

struct SixteenBytes;

impl KeyType for SixteenBytes {
    fn len(&self) -> usize {
        16
    }
}

#[interface(name = "org.freedesktop.Secret.Service")]
impl Service {
    /// Diffie-Hellman, with the number 1 for our secret: the shared one is then what the client has sent.
    async fn open_session(&self, algorithm: &str, input: OwnedValue) -> fdo::Result<(Value<'static>, OwnedObjectPath)> {
        let mut state = answering(&self.0).await;
        if algorithm != "dh-ietf1024-sha256-aes128-cbc-pkcs7" {
            return Err(fdo::Error::NotSupported(algorithm.to_owned()));
        }
        let theirs = Vec::<u8>::try_from(input).unwrap();
        let shared = [vec![0; 128 - theirs.len()], theirs].concat();
        let mut key = vec![0; 16];
        let pseudorandom = Salt::new(HKDF_SHA256, &[]).extract(&shared);
        pseudorandom.expand(&[], SixteenBytes).unwrap().fill(&mut key).unwrap();
        let session = format!("{SERVICE}/session/{}", state.keys.len());
        state.keys.insert(session.clone(), key);
        Ok((Value::from(vec![2_u8]), path(&session)))
    }

    async fn search_items(&self, attributes: HashMap<String, String>) -> (Vec<OwnedObjectPath>, Vec<OwnedObjectPath>) {
        let found = {
            let state = answering(&self.0).await;
            let found = state.matching(&attributes);
            if state.is_locked() { (vec![], found) } else { (found, vec![]) }
        };
        // Long enough for somebody else to come between looking and making.
        thread::sleep(Duration::from_millis(50));
        found
    }

    async fn unlock(&self, objects: Vec<OwnedObjectPath>) -> (Vec<OwnedObjectPath>, OwnedObjectPath) {
        if answering(&self.0).await.is_locked() { (vec![], path(PROMPT)) } else { (objects, path(NOTHING)) }
    }

    async fn read_alias(&self, name: &str) -> OwnedObjectPath {
        drop(answering(&self.0).await);
        path(if name == "default" { COLLECTION } else { NOTHING })
    }
}

struct Collection(Shared);

#[interface(name = "org.freedesktop.Secret.Collection")]
impl Collection {
    #[zbus(property)]
    fn locked(&self) -> bool {
        self.0.lock().unwrap().is_locked()
    }

    /// `replace` is no excuse: who makes an item that is there has not looked.
    async fn create_item(
        &self,
        properties: HashMap<String, OwnedValue>,
        secret: Sealed,
        replace: bool,
        #[zbus(object_server)] server: &ObjectServer,
    ) -> fdo::Result<(OwnedObjectPath, OwnedObjectPath)> {
        let attributes = properties["org.freedesktop.Secret.Item.Attributes"].try_clone().unwrap();
        let attributes = HashMap::<String, String>::try_from(attributes).unwrap();
        let name = {
            let mut state = answering(&self.0).await;
            if state.is_locked() || !state.matching(&attributes).is_empty() {
                return Err(fdo::Error::Failed(format!(
                    "it is locked, or the item is there already (replace: {replace})"
                )));
            }
            state.created += 1;
            let name = format!("{COLLECTION}/{}", state.created);
            let secret = state.unsealed(&secret);
            state.items.insert(name.clone(), Kept { attributes, secret });
            name
        };
        server.at(path(&name), Item { state: Arc::clone(&self.0), name: name.clone() }).await?;
        Ok((path(&name), path(NOTHING)))
    }
}

struct Item {
    state: Shared,
    name: String,
}

#[interface(name = "org.freedesktop.Secret.Item")]
impl Item {
    #[zbus(property)]
    fn locked(&self) -> bool {
        self.state.lock().unwrap().is_locked()
    }

    async fn get_secret(&self, session: OwnedObjectPath) -> fdo::Result<(Sealed,)> {
        let state = answering(&self.state).await;
        let kept = state.items.get(&self.name).filter(|_| !state.is_locked());
        kept.map(|kept| (state.sealed(&kept.secret, session),)).ok_or(fdo::Error::Failed("locked, or gone".to_owned()))
    }

    async fn set_secret(&self, secret: Sealed) -> fdo::Result<()> {
        let mut state = answering(&self.state).await;
        let secret = state.unsealed(&secret);
        let is_locked = state.is_locked();
        let kept = state.items.get_mut(&self.name).filter(|_| !is_locked);
        kept.map(|kept| kept.secret = secret).ok_or(fdo::Error::Failed("locked, or gone".to_owned()))
    }

    async fn delete(&self) -> OwnedObjectPath {
        let mut state = answering(&self.state).await;
        if !state.is_locked() {
            state.items.remove(&self.name);
        }
        path(NOTHING)
    }
}

struct Prompt(Shared);

#[interface(name = "org.freedesktop.Secret.Prompt")]
impl Prompt {
    async fn prompt(&self, window: &str, #[zbus(signal_emitter)] emitter: SignalEmitter<'_>) {
        assert_eq!(window, "", "a command has none");
        let mood = answering(&self.0).await.mood;
        match mood {
            Mood::UnlockedAfter(time) => {
                let (state, emitter) = (Arc::clone(&self.0), emitter.into_owned());
                thread::spawn(move || {
                    thread::sleep(time);
                    state.lock().unwrap().mood = Mood::Open;
                    zbus::block_on(Prompt::completed(&emitter, false, Value::from(Vec::<OwnedObjectPath>::new())))
                });
            }
            Mood::Dismissed => {
                let _ = Prompt::completed(&emitter, true, Value::from("")).await;
            }
            _ => {}
        }
    }

    #[zbus(signal)]
    async fn completed(emitter: &SignalEmitter<'_>, dismissed: bool, result: Value<'_>) -> zbus::Result<()>;
}
