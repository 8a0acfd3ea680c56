//! The harness itself keeps its promises, without any module.

use tagcache_tests::{RawClient, Reply, Server, call, for_all_engines};

#[test]
fn a_server_starts_serves_restarts_and_ends_when_dropped() {
    for_all_engines(|engine| {
        let mut server = Server::builder().engine(engine).without_module().start();
        let mut client = server.raw();
        assert_eq!(call!(client, "SET", "key", 5), Reply::ok());
        assert_eq!(call!(client, "GET", "key"), Reply::bulk("5"));
        assert!(matches!(
            call!(client.resp3(), "CONFIG", "GET", "port"),
            Reply::Map(_)
        ));
        let pid = server.pid();
        server.restart();
        assert_ne!(server.pid(), pid);
        assert!(
            call!(server.raw(), "GET", "key").is_null(),
            "nothing is saved by default"
        );
        server.kill_9();
        assert!(!server.is_alive());
        server.restart();
        let (port, dir) = (server.port(), server.dir().to_owned());
        drop(server);
        assert!(RawClient::connect(port).is_err());
        assert!(!dir.exists());
    });
}

#[test]
fn a_server_that_cannot_start_returns_its_log() {
    for_all_engines(|engine| {
        let builder = Server::builder()
            .engine(engine)
            .without_module()
            .arg("--maxmemory", "much");
        let log = builder.try_start().expect_err("much is no number");
        assert!(log.contains("maxmemory"), "{log}");
    });
}
