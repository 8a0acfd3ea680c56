//! The examples work as they claim.

use tagcache_tests::Server;

use crate::support::{builder, connected, run};

#[path = "../../examples/quick_start.rs"]
#[allow(dead_code, unused_attributes, reason = "its `main` is not called here")]
mod quick_start;

#[path = "../../examples/web/shop.rs"]
mod shop;

#[test]
fn quick_start_example_runs() {
    let server = Server::start();
    run(quick_start::tour(&format!(
        "redis://127.0.0.1:{}",
        server.port()
    )))
    .unwrap();
}

/// Sends the application a request over the network, as a browser would.
fn ask(url: &str) -> (u16, serde_json::Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    let mut response = agent.get(url).call().unwrap();
    let status = response.status().as_u16();
    let text = response.body_mut().read_to_string().unwrap();
    (status, serde_json::from_str(&text).unwrap_or_default())
}

#[test]
fn shop_example_shows_a_write_on_all_instances_immediately() {
    let server = Server::start();
    run(async {
        let mut instances = Vec::new();
        for _ in 0..2 {
            let cache = connected(builder(server.port()).namespace("shop")).await;
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
                .await
                .unwrap();
            instances.push(format!("http://{}", listener.local_addr().unwrap()));
            tokio::spawn(async move { axum::serve(listener, shop::app(cache)).await });
        }
        tokio::task::spawn_blocking(move || visit(&instances))
            .await
            .unwrap();
    });
}

fn visit(instances: &[String]) {
    let [here, there] = instances else {
        panic!("two instances")
    };
    // Each instance has a database of its own, so the second can only have got this product through the cache.
    let product = shop::Product {
        id: 1,
        name: "golden teapot".to_owned(),
        category: "kitchen".to_owned(),
        cents: 99_900,
    };
    assert_eq!(ask(&format!("{here}/products/1")).1["name"], "teapot");
    assert_eq!(ask(&format!("{there}/products/1")).1["name"], "teapot");
    assert_eq!(
        ask(&format!("{here}/products?category=kitchen"))
            .1
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let saved = ureq::put(format!("{here}/products/1"))
        .send_json(&product)
        .unwrap();
    assert_eq!(saved.status().as_u16(), 204);
    assert_eq!(
        ask(&format!("{here}/products/1")).1["name"],
        "golden teapot"
    );
    assert_eq!(
        ask(&format!("{here}/products?category=kitchen")).1[0]["cents"],
        99_900
    );
    tagcache_tests::wait_until(
        "the other instance is notified",
        tagcache_tests::DEADLINE,
        || ask(&format!("{there}/products/1")).1["name"] == "golden teapot",
    );
    assert_eq!(ask(&format!("{here}/products/77")).0, 404);
    assert_eq!(ask(&format!("{there}/products/77")).0, 404);
    // The first loaded product 1 twice, the list twice and product 77 once; the second loaded nothing.
    assert_eq!(ask(&format!("{here}/stats")).1["loads"], 5);
    assert_eq!(ask(&format!("{there}/stats")).1["loads"], 0);
}

/// The lines of the first Rust program of a page.
fn program(page: &str) -> &str {
    let from = page.find("```rust").expect("a program");
    let from = from + page[from..].find('\n').expect("its first line") + 1;
    let len = page[from..].find("```").expect("its end");
    &page[from..from + len]
}

#[test]
fn program_in_the_readme_matches_the_example() {
    let example = include_str!("../../examples/readme.rs");
    let example = &example[example.find("use ").expect("its first line")..];
    assert_eq!(program(include_str!("../../README.md")), example);
    let whole = include_str!("../../../docs/src/rust.md");
    let from = whole.find("## From Rust").expect("the section");
    assert_eq!(program(&whole[from..]), example);
}

#[test]
fn public_names_are_at_most_45() {
    let pages = [
        include_str!("../../src/lib.rs"),
        include_str!("../../src/local/mod.rs"),
        include_str!("../../src/memory/mod.rs"),
    ];
    let mut names = std::collections::BTreeSet::new();
    for page in pages {
        let modules = page.split("\npub mod ").skip(1);
        names.extend(modules.filter_map(|module| module.split(';').next()));
        for exported in page.split("\npub use ").skip(1) {
            let list = exported.split(';').next().unwrap_or_default();
            let words = list.split(|c: char| !c.is_alphanumeric() && c != '_');
            // Types begin with a capital, the paths before them do not.
            names.extend(words.filter(|word| word.starts_with(|c: char| c.is_uppercase())));
        }
    }
    println!("{}: {names:?}", names.len());
    assert!(
        (30..=45).contains(&names.len()),
        "{}: {names:?}",
        names.len()
    );
}
