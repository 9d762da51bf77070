//! Step up inside one command: nothing else is typed.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Lab, Test};

const LIMIT: Duration = Duration::from_mins(1);

pub fn tests() -> Vec<Test> {
    lab::tests![deletes_a_namespace, deletes_a_namespace_on_a_terminal, leaves_the_unprotected_alone]
}

fn deletes_a_namespace(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let alice = lab.session("alice")?;
    let before = alice.sign_ins();

    alice.kubectl(&["delete", "namespace", &namespace])?.succeeded()?;

    ensure!(alice.sign_ins() == before + 1, "one sign-in, not\n{}", alice.browser_log());
    ensure!(lab.answers("delete", "namespaces", &namespace)? == [429, 200]);
    alice.kubectl(&["get", "namespace", &namespace])?.failed_with("NotFound")?;
    Ok(())
}

fn deletes_a_namespace_on_a_terminal(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("prod")?;
    let alice = lab.session("alice")?;

    let terminal = alice.terminal("kubectl", &["delete", "namespace", &namespace])?;
    let (status, seen) = terminal.finish(LIMIT)?;

    ensure!(status.success(), "{status}:\n{seen}");
    ensure!(seen.matches("/device?user_code=").count() == 1, "one prompt, not\n{seen}");
    ensure!(seen.contains(&format!("namespace \"{namespace}\" deleted")), "{seen}");
    Ok(())
}

fn leaves_the_unprotected_alone(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("dev")?;
    let bob = lab.session("bob")?;

    bob.kubectl(&["delete", "namespace", &namespace, "--wait=false"])?.succeeded()?;

    ensure!(lab.answers("delete", "namespaces", &namespace)? == [200]);
    Ok(())
}
