//! Values freed on other threads, commands read on other threads: none of these threads touches the index.

use tagcache_tests::look::{assert_index_agrees, info, wait_reclaimed};
use tagcache_tests::traffic::{DATABASES, write};
use tagcache_tests::{DEADLINE, Reply, Rng, Server, args, call, for_all_engines, wait_until};

#[test]
fn the_index_is_exact_with_lazy_freeing_and_io_threads() {
    for_all_engines(|engine| {
        let mut builder = Server::builder()
            .engine(engine)
            .module_args(&["reclaim-inline", "16"])
            .arg("--io-threads", "3");
        for lazy in ["eviction", "expire", "server-del", "user-del", "user-flush"] {
            builder = builder.arg(&format!("--lazyfree-lazy-{lazy}"), "yes");
        }
        let server = builder.start();
        let threads: Vec<_> = (0..3)
            .map(|seed| {
                let mut client = server.raw();
                std::thread::spawn(move || {
                    let mut rng = Rng::new(40 + seed);
                    for round in 0..40 {
                        write(&mut client, &mut rng, 100);
                        let tag = format!("large{seed}");
                        let large = |n| {
                            args![
                                "CACHE.SET",
                                format!("{tag}-{n}"),
                                vec![7; 2000],
                                "TAGS",
                                1,
                                tag
                            ]
                        };
                        client.pipeline(&(0..50).map(large).collect::<Vec<_>>());
                        if round % 5 == 4 {
                            call!(client, "CACHE.INVALIDATE", tag);
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("the writers meet no failure");
        }
        let tags: [&[u8]; 4] = [b"large0", b"large1", b"large2", b"tag1"];
        assert_index_agrees(&server, &DATABASES, &tags);
        let mut client = server.raw();
        assert_eq!(call!(client, "FLUSHALL"), Reply::ok());
        wait_reclaimed(&mut client);
        wait_until("all values are freed", DEADLINE, || {
            info(&mut client, "lazyfree_pending_objects") == 0
        });
        assert_index_agrees(&server, &DATABASES, &tags);
    });
}
