//! A browser without a screen: given a sign-in URL, it fills the provider's forms as the person would, and ends. It knows
//! the pages of the lab's own provider and those of Keycloak.
//!
//! Told by the environment: `LAB_CA`, and
//!
//! - `LAB_BROWSER_USER`: who signs in where the page does not name anybody (alice)
//! - `LAB_BROWSER`: `deny` presses "Deny" at the first occasion, `ignore` does nothing at all
//! - `LAB_BROWSER_LOG`: a file that gets a line for each step, never a code or password
//!
//! Each call is a new browser session: nobody is signed in yet, so that `auth_time` is this moment.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use reqwest::blocking::{Client, Response};
use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::redirect::Policy;
use url::Url;

use crate::http;
use crate::person::Account;

/// More pages than any sign-in has.
const MAX_PAGES: usize = 20;

/// Completes the sign-in of the URL in `arguments`.
pub(crate) fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let log = Log { path: env::var_os("LAB_BROWSER_LOG").map(PathBuf::from) };
    let outcome = arguments
        .next()
        .and_then(|url| url.into_string().ok())
        .context("usage: lab-browser URL")
        .and_then(|url| Mood::from_environment().map(|mood| (url, mood)))
        .and_then(
            |(url, mood)| if mood == Mood::Ignore { log.line("ignored the URL") } else { browse(&url, mood, &log) },
        );
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The terminal belongs to the program that opened the browser, as with any other browser.
            let _ = log.line(&format!("failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Complete,
    Deny,
    Ignore,
}

impl Mood {
    fn from_environment() -> Result<Self> {
        match env::var("LAB_BROWSER").as_deref() {
            Err(_) | Ok("" | "complete") => Ok(Self::Complete),
            Ok("deny") => Ok(Self::Deny),
            Ok("ignore") => Ok(Self::Ignore),
            Ok(other) => bail!("LAB_BROWSER={other}: complete, deny or ignore"),
        }
    }
}

fn browse(url: &str, mood: Mood, log: &Log) -> Result<()> {
    let url = Url::parse(url).context("not a URL")?;
    let mut session = Session::at(&url)?;
    let mut page = session.open(url, None)?;
    let mut person = env::var("LAB_BROWSER_USER").unwrap_or_else(|_| "alice".to_owned());
    for _ in 0..MAX_PAGES {
        if !session.is_provider(&page.url) {
            return log.line("went back to the program");
        }
        let Some(form) = Form::first_in(&page.html) else {
            return if page.is_done() || mood == Mood::Deny {
                log.line("done")
            } else {
                bail!("{}: {}", page.status, page.error())
            };
        };
        if form.fields.contains_key("totpSecret") {
            return log.line("was asked to enrol a second factor, and left");
        }
        if page.tells_of_a_mistake() && mood == Mood::Complete {
            bail!("the provider says: {}", page.error());
        }
        let target = page.url.join(&form.action)?;
        let (step, fields) = fill(form, mood, &mut person)?;
        log.line(&step)?;
        page = session.open(target, Some(&fields))?;
    }
    bail!("no end after {MAX_PAGES} pages")
}

type Fields = BTreeMap<String, String>;

/// What a person does with a form that has these fields. `person` is who signs in, until a page names somebody.
fn fill(Form { mut fields, buttons, .. }: Form, mood: Mood, person: &mut String) -> Result<(String, Fields)> {
    let has = |name: &str| fields.contains_key(name);
    // "abort" is the library's own word, on the page that confirms the user code; "cancel" is Keycloak's.
    let refusal = ["deny", "cancel"].into_iter().find(|name| buttons.contains_key(*name));
    let refusal = if has("confirm") { Some("abort") } else { refusal };
    let step = if has("user_code") && !has("confirm") {
        if fields["user_code"].is_empty() {
            bail!("the URL has no user code in it");
        }
        "entered the user code".to_owned()
    } else if let Some(button) = refusal.filter(|_| mood == Mood::Deny) {
        fields.insert(button.to_owned(), "yes".to_owned());
        "denied".to_owned()
    } else if has("password") {
        if let Some(hint) = fields.get("username").filter(|hint| !hint.is_empty()) {
            person.clone_from(hint);
        }
        fields.insert("username".to_owned(), person.clone());
        fields.insert("password".to_owned(), Account::of(person)?.password.clone());
        format!("password of {person}")
    } else if let Some(accept) = buttons.get("accept") {
        fields.insert("accept".to_owned(), accept.clone());
        "allowed access".to_owned()
    } else if let Some(field) = ["code", "otp"].into_iter().find(|name| has(name)) {
        fields.insert(field.to_owned(), Account::of(person)?.code()?);
        format!("one-time code of {person}")
    } else if has("confirm") {
        "confirmed the user code".to_owned()
    } else if has("allow") {
        "allowed access".to_owned()
    } else {
        bail!("a form that the lab's browser does not know: {:?}", fields.keys());
    };
    Ok((step, fields))
}

struct Page {
    url: Url,
    status: u16,
    html: String,
}

impl Page {
    /// Whether it is the last page of a device sign-in.
    fn is_done(&self) -> bool {
        self.html.contains("data-step=\"done\"") || self.html.contains("Device Login Successful")
    }

    /// Whether it is there again because of what was typed.
    fn tells_of_a_mistake(&self) -> bool {
        self.html.contains("role=\"alert\"") || self.html.contains("kc-feedback-text\"")
    }

    /// The text of the element that tells of an error, or the beginning of the page.
    fn error(&self) -> String {
        let marks = ["class=\"error\"", "kc-feedback-text\"", "id=\"kc-error-message\"", "id=\"kc-page-title\""];
        let text =
            marks.into_iter().find_map(|mark| self.html.split_once(mark)).map_or(self.html.as_str(), |(_, rest)| rest);
        let mut text = text.split_once('>').map_or(text, |(_, rest)| rest);
        // The element may begin with others.
        while let Some(inner) = text.trim_start().strip_prefix('<') {
            text = inner.split_once('>').map_or("", |(_, rest)| rest);
        }
        text.split_once('<').map_or(text, |(text, _)| text).trim().to_owned()
    }
}

struct Session {
    client: Client,
    provider: Url,
    cookies: BTreeMap<String, String>,
}

impl Session {
    /// A new browser session, which begins at the provider.
    fn at(provider: &Url) -> Result<Self> {
        let ca = env::var_os("LAB_CA").context("LAB_CA is not set")?;
        let client = http::builder(ca.as_ref())?.redirect(Policy::none()).build()?;
        Ok(Self { client, provider: provider.clone(), cookies: BTreeMap::new() })
    }

    fn is_provider(&self, url: &Url) -> bool {
        url.origin() == self.provider.origin()
    }

    /// Opens `url` (as a form's target, if there is a form) and follows redirections.
    fn open(&mut self, mut url: Url, form: Option<&Fields>) -> Result<Page> {
        let mut form = form;
        for _ in 0..MAX_PAGES {
            let mut request = match form.take() {
                Some(fields) => self.client.post(url.clone()).form(fields),
                None => self.client.get(url.clone()),
            };
            // Cookies are the provider's: what listens on the loopback port of the program has no business with them.
            if self.is_provider(&url) && !self.cookies.is_empty() {
                let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
                request = request.header(COOKIE, cookies.join("; "));
            }
            let response = request.send().map_err(reqwest::Error::without_url)?;
            self.keep_cookies(&response);
            match response.headers().get(LOCATION) {
                Some(location) if response.status().is_redirection() => url = url.join(location.to_str()?)?,
                _ => return Ok(Page { url, status: response.status().as_u16(), html: response.text()? }),
            }
        }
        bail!("no end of redirections")
    }

    fn keep_cookies(&mut self, response: &Response) {
        for header in response.headers().get_all(SET_COOKIE) {
            let Ok(cookie) = header.to_str() else { continue };
            let pair = cookie.split(';').next().unwrap_or_default();
            match pair.split_once('=') {
                Some((name, "")) => drop(self.cookies.remove(name)),
                Some((name, value)) => drop(self.cookies.insert(name.to_owned(), value.to_owned())),
                None => {}
            }
        }
    }
}

struct Form {
    action: String,
    fields: Fields,
    /// What can be pressed; only what is pressed is sent.
    buttons: Fields,
}

impl Form {
    /// The first form of a page. Knows as much HTML as the provider's pages are made of.
    fn first_in(html: &str) -> Option<Self> {
        let (_, from_form) = html.split_once("<form")?;
        let (attributes, rest) = from_form.split_once('>')?;
        let (inside, _) = rest.split_once("</form>")?;
        let (mut fields, mut buttons) = (Fields::new(), Fields::new());
        for (tag, of_kind) in [("<input", "text"), ("<button", "submit")] {
            for element in inside.split(tag).skip(1).filter_map(|rest| rest.split('>').next()) {
                let Some(name) = attribute(element, "name") else { continue };
                let value = attribute(element, "value").unwrap_or_default();
                match attribute(element, "type").as_deref().unwrap_or(of_kind) {
                    // A box that nobody ticked.
                    "checkbox" => {}
                    "submit" | "button" => drop(buttons.insert(name, value)),
                    _ => drop(fields.insert(name, value)),
                }
            }
        }
        Some(Self { action: attribute(attributes, "action").unwrap_or_default(), fields, buttons })
    }
}

fn attribute(element: &str, name: &str) -> Option<String> {
    let (_, rest) =
        element.split_once(&format!(" {name}=\"")).or_else(|| element.split_once(&format!("\n{name}=\"")))?;
    let (value, _) = rest.split_once('"')?;
    let mut value = value.to_owned();
    for (entity, character) in [("&#38;", "&"), ("&amp;", "&"), ("&#34;", "\""), ("&quot;", "\""), ("&#39;", "'")] {
        value = value.replace(entity, character);
    }
    Some(value)
}

struct Log {
    path: Option<PathBuf>,
}

impl Log {
    fn line(&self, text: &str) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        // One write, so that lines of parallel browsers do not mix.
        Ok(file.write_all(format!("{}: {text}\n", std::process::id()).as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_with_its_hidden_and_prefilled_fields() {
        let form = Form::first_in(
            r#"<p>x</p><form id="f" method="post" action="https://idp/device?a=1&amp;b=2">
            <input type="hidden" name="xsrf" value="abc"/> <input
    type="text" name="user_code" placeholder="Enter code"></input></form>"#,
        )
        .expect("a form");
        assert_eq!(form.action, "https://idp/device?a=1&b=2");
        assert_eq!(form.fields["xsrf"], "abc");
        assert_eq!(form.fields["user_code"], "");
    }

    #[test]
    fn buttons_are_pressed_and_boxes_left_alone() {
        let html = r#"<form action="/consent"><input type="hidden" name="code" value="c"/><input type="checkbox"
            name="rememberMe"/><input name="accept" type="submit" value="Yes"/><button name="cancel">No</button></form>"#;
        let filled = |mood| fill(Form::first_in(html).expect("a form"), mood, &mut "alice".to_owned()).expect("filled");
        let (step, fields) = filled(Mood::Complete);
        assert_eq!(step, "allowed access");
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["accept", "code"]);
        let (step, fields) = filled(Mood::Deny);
        assert_eq!(
            (step.as_str(), fields.contains_key("cancel"), fields.contains_key("accept")),
            ("denied", true, false)
        );
    }

    #[test]
    fn no_form_is_no_form() {
        assert!(Form::first_in("<p>You can close this page").is_none());
    }
}
