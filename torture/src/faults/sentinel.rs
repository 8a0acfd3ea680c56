//! A primary, its replica, and the sentinel that names the primary.

use tagcache_tests::{DEADLINE, Reply, Server, call, wait_until};

use super::Stage;
use crate::log::{Fault, Time, now};

/// The writes that a replica may lack when all is well.
const LAG: Time = 1_000_000_000;

fn lost(since: Time) -> Fault {
    Fault {
        loses: true,
        undone_since: Some(since),
        keys_undone: false,
        untimed: false,
    }
}

/// The places of primary and replica, once all is well.
fn roles(stage: &Stage) -> (usize, usize) {
    let roles = stage.site.settle();
    stage.site.wait_for_replicas(1);
    roles
}

fn wait_named(stage: &Stage, server: usize) {
    wait_until("the replica is named as primary", DEADLINE * 2, || {
        stage.site.named() == Some(server) && stage.site.is_primary(server)
    });
}

fn fail_over(stage: &Stage) {
    let (_, replica) = roles(stage);
    ask_for_failover(stage);
    wait_named(stage, replica);
    stage.site.settle();
}

fn ask_for_failover(stage: &Stage) {
    let mut asked = stage.site.sentinel().raw();
    wait_until("a failover begins", DEADLINE, || {
        call!(asked, "SENTINEL", "FAILOVER", "cache") == Reply::ok()
    });
}

/// A requested failover.
pub(super) fn failover(stage: &mut Stage) {
    let start = now();
    fail_over(stage);
    stage.fault("SENTINEL FAILOVER", start, lost(start - LAG));
}

/// The primary dies.
pub(super) fn killed(stage: &mut Stage) {
    let (primary, replica) = roles(stage);
    let start = now();
    stage.site.servers[primary].kill_9();
    wait_named(stage, replica);
    stage.fault("forced failover, primary killed", start, lost(start - LAG));
    come_back(stage, |stage| stage.site.servers[primary].restart());
}

/// The primary hangs, and returns as a second primary.
pub(super) fn stopped(stage: &mut Stage) {
    let (primary, replica) = roles(stage);
    let start = now();
    stage.site.servers[primary].pause();
    wait_named(stage, replica);
    stage.sleep(0, 500);
    stage.site.servers[primary].resume();
    stage.site.settle();
    stage.fault("forced failover, primary stopped", start, lost(start - LAG));
}

/// The former primary returns, and remains a primary until the sentinel reconfigures it.
fn come_back(stage: &mut Stage, back: impl FnOnce(&mut Stage)) {
    stage.sleep(0, 1500);
    let start = now();
    back(stage);
    stage.site.settle();
    let fault = Fault {
        loses: true,
        ..Fault::default()
    };
    stage.fault("a former primary comes back", start, fault);
}

/// The replica hangs.
pub(super) fn lag(stage: &mut Stage) {
    let (_, replica) = roles(stage);
    let start = now();
    stage.site.servers[replica].pause();
    stage.sleep(200, 2000);
    stage.site.servers[replica].resume();
    stage.fault("replica stopped", start, Fault::default());
}

/// The primary dies while its replica receives nothing from it.
pub(super) fn lagging(stage: &mut Stage) {
    let (primary, replica) = roles(stage);
    let mut client = stage.site.servers[replica].raw();
    let since = now();
    call!(
        client,
        "CONFIG",
        "SET",
        "masteruser",
        "nobody",
        "masterauth",
        "none"
    );
    call!(
        stage.site.servers[primary].raw(),
        "CLIENT",
        "KILL",
        "TYPE",
        "replica"
    );
    stage.sleep(100, 700);
    let start = now();
    stage.site.servers[primary].kill_9();
    wait_named(stage, replica);
    // The sentinel has closed all connections to the replica.
    let mut client = stage.site.servers[replica].raw();
    call!(client, "CONFIG", "SET", "masteruser", "", "masterauth", "");
    stage.fault(
        "forced failover to a replica that lags",
        start,
        lost(since - LAG),
    );
    come_back(stage, |stage| stage.site.servers[primary].restart());
}

/// A new server with the module's file takes over from the replica, then another one from the primary.
pub(super) fn upgrade(stage: &mut Stage) {
    let start = now();
    let (primary, replica) = roles(stage);
    replace(stage, replica, primary);
    ask_for_failover(stage);
    wait_named(stage, replica);
    // A sentinel that is reset before it has finished watches the former primary again.
    let port = stage.site.servers[replica].port().to_string();
    wait_until("the sentinel has finished", DEADLINE * 2, || {
        let watched = call!(stage.site.sentinel().raw(), "SENTINEL", "MASTER", "cache");
        watched.field("port").text() == port
    });
    // The former primary may have an older module, which need not understand the new stream: it only has to go.
    replace(stage, primary, replica);
    fail_over(stage);
    stage.fault("module replaced by failover", start, lost(start - LAG));
}

/// A new server follows the primary instead of the former one.
fn replace(stage: &mut Stage, former: usize, primary: usize) {
    let new = Server::builder()
        .engine(&stage.site.engine)
        .replica_of(&stage.site.servers[primary])
        .start();
    stage.site.servers[former] = new;
    stage.site.settle();
    // The sentinel forgets the former server.
    call!(stage.site.sentinel().raw(), "SENTINEL", "RESET", "cache");
    stage.site.wait_for_replicas(1);
}
