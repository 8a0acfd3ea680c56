use std::sync::Arc;

use tagcache::http::Fleet;
use tagcache::memory::{MemoryUsage, Reading, Server as Watched, ServerState, Source, Status};
use tagcache_tests::{DEADLINE, Server, wait_until};

use crate::endpoint::{Endpoint, Guide, builder, monitor};

/// Nearly out of memory.
struct Full;

impl Source for Full {
    fn read(&mut self) -> Reading {
        Reading {
            memory: MemoryUsage {
                heap_used: Some(99),
                limit: Some(100),
                ..MemoryUsage::default()
            },
            local: None,
            server: ServerState::None,
        }
    }
}

#[test]
fn all_instances_show_and_which_is_unwell() {
    let server = Server::start();
    let watched = Watched::open(&format!("redis://127.0.0.1:{}/", server.port())).unwrap();
    let (well, full) = (monitor(Guide), monitor(Full));
    Fleet::join(&well, watched.clone(), "web-1");
    Fleet::join(&full, watched.clone(), "web-2");
    let instances = Fleet::instances(&watched).unwrap();
    let seen: Vec<_> = instances
        .iter()
        .map(|i| (i.instance.as_str(), i.status))
        .collect();
    assert_eq!(
        seen,
        [("web-1", Status::Healthy), ("web-2", Status::Critical)]
    );
    assert_eq!(instances[0].local_entries, Some(15));

    let endpoint = Endpoint::start(builder(Guide).server(watched.clone()).build());
    let overview = endpoint.get("/api/admin/overview").json();
    assert_eq!(overview["instances"][1]["status"], "critical");

    // As redis-cli sees it, and with a time to live: an instance that ended disappears.
    let ttl: i64 = redis::cmd("PTTL")
        .arg("tagcache:instance:web-2")
        .query(&mut server.connection())
        .unwrap();
    assert!((1..=15_000).contains(&ttl), "{ttl}");
}

#[test]
fn an_instance_publishes_again_after_the_server_came_back() {
    let mut server = Server::start();
    let watched = Watched::open(&format!("redis://127.0.0.1:{}/", server.port())).unwrap();
    let monitor = monitor(Guide);
    Fleet::join(&monitor, watched.clone(), "web-1");
    server.restart();
    assert!(Arc::strong_count(&monitor) >= 1);
    wait_until("it is listed again", DEADLINE, || {
        Fleet::instances(&watched).is_ok_and(|instances| instances.len() == 1)
    });
}
