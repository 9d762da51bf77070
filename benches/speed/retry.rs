//! Part 5: from the denial of a protected command to its success, when the person's sign-in is fresh enough.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use lab::{Lab, Session};

use crate::report::{self, Table, millis};
use crate::stats::Samples;

const RUNS: usize = 10;
/// What the server asks the client to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const AIM: Duration = Duration::from_millis(100);

/// Prints the table.
pub fn measure(lab: &Lab, person: &Session) -> Result<()> {
    lab.admin(&["create", "namespace", "prod"])?;
    // By the lab's policy: a sign-in is good for five minutes, and each deletion takes a grant of its own.
    let name = |run: usize| format!("web-{run}");
    // A sign-in serves again in the terminal in which it was made.
    let mut window = person.window()?;
    let mut sign_ins = 0;
    for run in 0..=RUNS {
        lab.admin(&["create", "deployment", &name(run), "--image", "none", "--namespace", "prod"])?;
        window.run(&format!("kubectl delete deployment {} --namespace prod", name(run)))?.succeeded()?;
        if run == 0 {
            sign_ins = person.sign_ins();
        }
    }
    ensure!(person.sign_ins() == sign_ins, "the first sign-in was to serve for all");
    // The person signed in during the first.
    let spans = (1..=RUNS).map(|run| span(lab, &name(run))).collect::<Result<Vec<_>>>()?;
    let spans = Samples::from(spans);

    report::part(&format!(
        "kubectl delete of a protected object: from the denial to the use of the grant, {RUNS} runs"
    ));
    let mut table = Table::new(&["", "median", "slowest"]);
    table.row([
        "audit record `challenge` to audit record `use`".to_owned(),
        millis(spans.median()),
        millis(spans.quantile(1.0)),
    ]);
    table.row(["of which Retry-After".to_owned(), millis(RETRY_AFTER), millis(RETRY_AFTER)]);
    table.print();
    report::aim("Retry-After + 100 ms", spans.median() <= RETRY_AFTER + AIM);
    Ok(())
}

/// From the challenge about the object called `name` to the use of its grant.
fn span(lab: &Lab, name: &str) -> Result<Duration> {
    let records = lab.records_about(name)?;
    let time = |event: &str| -> Result<DateTime<Utc>> {
        let mut found = records.iter().filter(|record| record["event"] == event);
        let record = found.next().with_context(|| format!("no record of a {event} of {name}"))?;
        ensure!(found.next().is_none(), "more than one {event} of {name}");
        Ok(record["time"].as_str().context("a record without time")?.parse()?)
    };
    Ok((time("use")? - time("challenge")?).to_std()?)
}
