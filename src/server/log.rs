//! The server's own log: structured lines on standard error. Audit records are another thing, see `audit`.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use super::config::{Log, LogFormat};

/// The filter of the configuration is none.
#[derive(Debug, thiserror::Error)]
#[error("log.level {level:?} is not a level (error, warn, info, debug, trace) or a filter: {source}")]
pub struct BadLevel {
    level: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Starts logging, for the rest of the process. What was started before stays.
pub fn start(config: &Log) -> Result<(), BadLevel> {
    let filter = filter(&config.level)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE)
        .with_target(false);
    // An error means that somebody else logs already (a test), which is as good.
    let _ = match config.format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
        LogFormat::Text => builder.with_ansi(false).try_init(),
    };
    Ok(())
}

/// Libraries that print what they send and receive.
const TALKATIVE: [&str; 5] = ["h2", "hyper", "hyper_util", "reqwest", "rustls"];

/// A bare level is ours; the libraries below us speak up from `warn` on. At `debug` and below they print what they send
/// and receive, tokens among it, so they are held back whatever is asked for.
fn filter(level: &str) -> Result<EnvFilter, BadLevel> {
    let wanted =
        if level.contains('=') || level.contains(',') { level.to_owned() } else { format!("warn,stepup={level}") };
    let bad = |source| BadLevel { level: level.to_owned(), source };
    EnvFilter::builder().parse(&wanted).map_err(bad)?;
    // A longer target goes before a shorter one, and a span, which may be of theirs, before all targets. We have none.
    let is_held = |directive: &&str| {
        TALKATIVE.iter().any(|library| directive.trim_start().starts_with(library)) || directive.contains('[')
    };
    let heard: Vec<&str> = wanted.split(',').filter(|directive| !is_held(directive)).collect();
    let mut filter = EnvFilter::builder().parse(heard.join(",")).map_err(bad)?;
    for talkative in TALKATIVE {
        let directive = format!("{talkative}=warn").parse().expect("a directive of our own making is well-formed");
        filter = filter.add_directive(directive);
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_that_would_print_tokens_are_held_back() {
        for level in [
            "trace",
            "stepup=debug,h2=trace",
            "h2::codec=trace,stepup=info",
            "hyper_util::client::legacy=debug",
            "stepup=info,h2",
            "[Connection]=trace,h2[recv]=trace",
        ] {
            let text = filter(level).unwrap().to_string();
            assert!(text.contains("h2=warn") && text.contains("hyper=warn"), "{text}");
            let held = |directive: &str| TALKATIVE.iter().any(|library| directive == format!("{library}=warn"));
            let is_ours = |directive: &str| directive == "warn" || directive.starts_with("stepup=");
            assert!(text.split(',').all(|directive| held(directive) || is_ours(directive)), "{level}: {text}");
        }
    }

    #[test]
    fn a_wrong_level_is_named() {
        assert!(filter("stepup=loud").unwrap_err().to_string().contains("stepup=loud"));
    }
}
