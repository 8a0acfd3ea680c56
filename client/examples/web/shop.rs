//! The application: a slow database, and a cache in front of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tagcache::{Cache, Entry, Error};

/// A product of the shop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Product {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) category: String,
    pub(crate) cents: u32,
}

/// Stands for a database: every query takes a while.
#[derive(Clone, Debug)]
struct Database(Arc<Mutex<BTreeMap<u32, Product>>>);

impl Database {
    fn new() -> Self {
        let product = |id, name: &str, category: &str, cents| {
            let (name, category) = (name.to_owned(), category.to_owned());
            (
                id,
                Product {
                    id,
                    name,
                    category,
                    cents,
                },
            )
        };
        let products = [
            product(1, "teapot", "kitchen", 2000),
            product(2, "cup", "kitchen", 500),
            product(3, "spade", "garden", 1800),
        ];
        Self(Arc::new(Mutex::new(products.into())))
    }

    async fn query<T>(&self, ask: impl FnOnce(&mut BTreeMap<u32, Product>) -> T) -> T {
        tokio::time::sleep(Duration::from_millis(50)).await;
        ask(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Clone)]
struct Shop {
    cache: Cache,
    database: Database,
}

/// The response of a handler when something fails.
type Failure = (StatusCode, String);

fn failed(error: &Error) -> Failure {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// The routes.
pub(crate) fn app(cache: Cache) -> Router {
    let database = Database::new();
    Router::new()
        .route("/products", get(list))
        .route("/products/{id}", get(show).put(save))
        .route("/stats", get(stats))
        .with_state(Shop { cache, database })
}

/// One product. A missing product is cached as absent as well, but not for long.
async fn show(State(shop): State<Shop>, Path(id): Path<u32>) -> Result<Json<Product>, Failure> {
    let entry = Entry::ttl(Duration::from_secs(300))
        .grace(Duration::from_secs(60))
        .negative_ttl(Duration::from_secs(5))
        .jitter(0.1)
        .tags([format!("product:{id}")]);
    let database = shop.database.clone();
    let load = move || async move {
        Ok::<_, Error>(database.query(|products| products.get(&id).cloned()).await)
    };
    let found = shop
        .cache
        .get_or_load_optional(&format!("product:{id}"), entry, load)
        .await;
    let product = found.map_err(|error| failed(&error))?;
    product
        .map(Json)
        .ok_or((StatusCode::NOT_FOUND, format!("no product {id}")))
}

#[derive(Deserialize)]
struct Filter {
    category: String,
}

/// The products of a category, under the tag of the category.
async fn list(
    State(shop): State<Shop>,
    Query(filter): Query<Filter>,
) -> Result<Json<Vec<Product>>, Failure> {
    let Filter { category } = filter;
    let entry = Entry::ttl(Duration::from_secs(300)).tags([format!("category:{category}")]);
    let key = format!("list:{category}");
    let database = shop.database.clone();
    let load = move || async move {
        let of_category = |products: &mut BTreeMap<u32, Product>| {
            let all = products
                .values()
                .filter(|product| product.category == category);
            all.cloned().collect::<Vec<_>>()
        };
        Ok::<_, Error>(database.query(of_category).await)
    };
    let products = shop.cache.get_or_load(&key, entry, load).await;
    products.map(Json).map_err(|error| failed(&error))
}

/// Writes a product, then drops every page that shows it: first the database, then the cache, so that no load after the
/// drop reads the old state. The write of a load that is running at this moment is refused.
async fn save(
    State(shop): State<Shop>,
    Path(id): Path<u32>,
    Json(product): Json<Product>,
) -> Result<StatusCode, Failure> {
    let mut tags = vec![
        format!("product:{id}"),
        format!("category:{}", product.category),
    ];
    let product = Product { id, ..product };
    let before = shop
        .database
        .query(|products| products.insert(id, product))
        .await;
    tags.extend(before.map(|before| format!("category:{}", before.category)));
    // A server that misses this is sent it as soon as it can be reached: the write itself is valid.
    match shop.cache.invalidate_tags(&tags).await {
        Ok(_) | Err(Error::Partial { retried: true, .. }) => Ok(StatusCode::NO_CONTENT),
        Err(error) => Err(failed(&error)),
    }
}

/// The cache's counts.
async fn stats(State(shop): State<Shop>) -> Json<BTreeMap<&'static str, u64>> {
    let stats = shop.cache.stats();
    Json(BTreeMap::from([
        ("loads", stats.loads),
        ("local_hits", stats.local.hits),
        ("server_hits", stats.server_hits),
    ]))
}
