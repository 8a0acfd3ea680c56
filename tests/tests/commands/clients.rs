//! A client library gets the reply types that it expects.

use std::collections::HashMap;

use redis::{Value, cmd};
use tagcache_tests::{Server, for_each_engine};

#[test]
fn redis_rs_reads_every_reply_under_both_protocols() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        for mut connection in [server.connection(), server.connection_resp3()] {
            let connection = &mut connection;
            let set: String = cmd("CACHE.SET")
                .arg("key")
                .arg(b"v\0")
                .arg(&["TAGS", "1", "a"])
                .query(connection)
                .unwrap();
            assert_eq!(set, "OK");
            let refused: Option<String> = cmd("CACHE.SET")
                .arg(&["key", "v", "NX"])
                .query(connection)
                .unwrap();
            assert_eq!(refused, None);
            let value: Option<Vec<u8>> = cmd("CACHE.GET").arg("key").query(connection).unwrap();
            assert_eq!(value.as_deref(), Some(&b"v\0"[..]));
            let values: Vec<Option<Vec<u8>>> = cmd("CACHE.MGET")
                .arg(&["key", "absent"])
                .query(connection)
                .unwrap();
            assert_eq!(values, [Some(b"v\0".to_vec()), None]);
            let inspected: HashMap<String, Value> =
                cmd("CACHE.INSPECT").arg("key").query(connection).unwrap();
            let tags: Vec<String> = redis::from_redis_value(inspected["tags"].clone()).unwrap();
            assert_eq!(tags, ["a"]);
            let info: HashMap<String, i64> =
                cmd("CACHE.TAGINFO").arg("a").query(connection).unwrap();
            assert_eq!(info["entries"], 1);
            let (cursor, keys): (u64, Vec<String>) = cmd("CACHE.TAGSCAN")
                .arg("a")
                .arg(0)
                .query(connection)
                .unwrap();
            assert_eq!((cursor, keys), (0, vec!["key".to_owned()]));
            let stats: HashMap<String, f64> = cmd("CACHE.STATS").query(connection).unwrap();
            assert!(stats["entries"] > 0.5 && stats["hit_rate"] > 0.0);
            let dropped: i64 = cmd("CACHE.INVALIDATE").arg("a").query(connection).unwrap();
            assert_eq!(dropped, 1);
            let error = cmd("CACHE.GET")
                .query::<Option<String>>(connection)
                .unwrap_err();
            assert!(
                error.to_string().contains("wrong number of arguments"),
                "{error}"
            );
        }
    });
}
