//! Slots that move as a whole: CLUSTER MIGRATION of Redis 8.4 and newer, CLUSTER MIGRATESLOTS of Valkey 9.

mod arrivals;
mod commands;
mod load;
mod nodes;
mod trim;
