//! Counting in transactions, in scripts and on replicas.

use tagcache_tests::look::inspect;
use tagcache_tests::state::{assert_same, replicated, wait_synchronised};
use tagcache_tests::{Reply, call, for_each_engine, on_both_protocols};

use crate::{read, top};

#[test]
fn hits_and_top_work_in_transactions_and_scripts() {
    on_both_protocols(|_, client| {
        call!(client, "CACHE.SET", "key", "v");
        call!(client, "MULTI");
        call!(client, "CACHE.GET", "key");
        call!(client, "CACHE.HITS", "key", 5);
        call!(client, "CACHE.TOP", 5);
        let exec = call!(client, "EXEC");
        assert_eq!(exec.items()[1], Reply::Int(1));
        assert_eq!(crate::top_of(&exec.items()[2]), [("key".to_owned(), 6)]);
        let script = "redis.call('CACHE.HITS', KEYS[1], 4); return redis.call('CACHE.TOP')[1][2]";
        assert_eq!(call!(client, "EVAL", script, 1, "key"), Reply::Int(10));
    });
}

#[test]
fn a_replica_counts_its_own_reads() {
    for_each_engine(|engine| {
        let (primary, replica) = replicated(engine);
        let (mut client, mut reader) = (primary.raw(), replica.raw());
        call!(client, "CACHE.SET", "key", "v");
        call!(client, "CACHE.SET", "other", "v");
        wait_synchronised(&primary, &replica);
        read(&mut reader, "other", 3);
        read(&mut client, "key", 2);
        assert_eq!(top(&mut reader, 1), [("other".to_owned(), 3)]);
        assert_eq!(top(&mut client, 1), [("key".to_owned(), 2)]);
        call!(client, "CACHE.HITS", "key", 5);
        assert_eq!(inspect(&mut client, "key").unwrap().hits, 7);
        assert_same(&primary, &replica, &[0]);
    });
}
