//! Streams of pods that nothing protects, on the lab's kubelet: they are what the clients' own are measured against, and
//! both ways to carry them work.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::process::await_that;
use lab::terminal::Terminal;
use lab::{Lab, Session, Test};

const LIMIT: Duration = Duration::from_mins(1);

pub fn tests() -> Vec<Test> {
    lab::tests![stream_over_websockets, stream_over_spdy, drains_a_node]
}

fn stream_over_websockets(lab: &Lab) -> Result<()> {
    streams(lab, &lab.someone_like("bob")?)
}

/// As every kubectl before 1.31, and newer ones where something on the way breaks WebSockets.
fn stream_over_spdy(lab: &Lab) -> Result<()> {
    let bob = lab.someone_like("bob")?;
    streams(
        lab,
        &bob.with("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false").with("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false"),
    )
}

fn streams(lab: &Lab, bob: &Session) -> Result<()> {
    let namespace = lab.namespace("dev")?;
    lab.pod(&namespace, "web", "node", &[])?;
    let kubectl = |line: &str| bob.script(&format!("kubectl -n {namespace} {line}"));

    let through = kubectl("exec -i web -- cat < kubeconfig.yaml")?.succeeded()?.stdout;
    ensure!(through == std::fs::read_to_string(bob.kubeconfig())?, "{through}");
    let status = kubectl("exec web -- exit 7")?;
    ensure!(status.status.code() == Some(7), "{status:?}");
    let lines = kubectl("exec web -- count 20000")?.succeeded()?.stdout;
    ensure!(lines.lines().count() == 20_000 && lines.ends_with("line 20000\n"), "{} lines", lines.lines().count());
    let attached = kubectl("attach -i web < kubeconfig.yaml")?.succeeded()?.stdout;
    ensure!(attached.contains("attached"), "{attached}");
    kubectl("cp web:/greeting copied")?.succeeded()?;
    ensure!(std::fs::read_to_string(bob.home().join("copied"))? == "hello");
    ensure!(kubectl("logs web")?.succeeded()?.stdout == "line 1\nline 2\nline 3\n");

    let mut follow = bob.terminal("kubectl", &["-n", &namespace, "logs", "-f", "web"])?;
    follow.expect("line 12", LIMIT)?;
    let mut forward = bob.terminal("kubectl", &["-n", &namespace, "port-forward", "web", ":7"])?;
    comes_back(&mut forwarded(&mut forward)?, "there and back")
}

/// A connection through `kubectl port-forward`, once that says where it listens.
pub fn forwarded(forward: &mut Terminal) -> Result<TcpStream> {
    forward.expect("Forwarding from 127.0.0.1:", LIMIT)?;
    let port: u16 = await_that(LIMIT, || {
        let text = forward.text();
        let (_, rest) = text.split_once("Forwarding from 127.0.0.1:").context("not yet")?;
        Ok(rest.split(' ').next().unwrap_or_default().parse()?)
    })?;
    let echo = TcpStream::connect(("127.0.0.1", port))?;
    echo.set_read_timeout(Some(LIMIT))?;
    Ok(echo)
}

/// What is sent to the lab's pods, on port 7, comes back.
pub fn comes_back(echo: &mut TcpStream, message: &str) -> Result<()> {
    echo.write_all(message.as_bytes())?;
    let mut back = vec![0; message.len()];
    echo.read_exact(&mut back)?;
    ensure!(back == message.as_bytes());
    Ok(())
}

/// The pod is gone as soon as its eviction is allowed.
fn drains_a_node(lab: &Lab) -> Result<()> {
    let namespace = lab.namespace("dev")?;
    let node = format!("node-of-{namespace}");
    lab.node(&node)?;
    lab.pod(&namespace, "web", &node, &[])?;
    let bob = lab.someone_like("bob")?;

    bob.kubectl(&["drain", &node, "--force"])?.succeeded()?;

    lab.answered(&namespace, "create", "pods/eviction", &[201])?;
    ensure!(lab.admin(&["get", "pods", "-n", &namespace, "-o", "name"])?.is_empty());
    Ok(())
}
