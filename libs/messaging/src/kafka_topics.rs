//! Makes topics on the brokers, and refuses those that would lose something.
//!
//! # Problem
//! A topic that somebody made by hand has the cluster's defaults: it forgets what is a week old, and another number of
//! partitions sends a key elsewhere. Both go unnoticed until a new listener starts at the beginning.
//!
//! # Pattern
//! The program says what it needs of its infrastructure, makes it if it is missing, and refuses to start on less.
//!
//! # Here
//! A topic is made with all that matters set, and one that exists is held against the same list.
//!
//! # Limits
//! Nothing is changed about a topic that exists: that is for whoever made it to decide.
use std::sync::Arc;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::RDKafkaErrorCode;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use crate::kafka_cluster::{Cluster, PATIENCE, Voice};
use crate::kafka_looks::{Looks, blocking};
use crate::{BusError, MAX_PARTITIONS, Partition};

/// What is kept for ever, whatever the cluster's defaults are.
const KEPT: [(&str, &str); 3] = [("retention.ms", "-1"), ("retention.bytes", "-1"), ("cleanup.policy", "delete")];
/// How long is waited until a topic that was made is known to the broker that is asked.
const BETWEEN_LOOKS: std::time::Duration = std::time::Duration::from_millis(20);

/// What a topic is to be.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) topic: String,
    pub(crate) partitions: Partition,
    pub(crate) replicas: u16,
}

/// Makes a topic, if it does not exist.
pub(crate) async fn create(cluster: &Cluster, looks: &Arc<Looks>, wanted: Wanted) -> Result<(), BusError> {
    let Wanted { topic, partitions, .. } = wanted.clone();
    cluster.check_topic(&topic)?;
    if !(1..=MAX_PARTITIONS).contains(&partitions) {
        return Err(BusError::Malformed(format!("a topic has 1 to {MAX_PARTITIONS} partitions, not {partitions}")));
    }
    looks.doubt(&topic);
    let mut found = looks.find(&topic).await?;
    if found.is_none() {
        let (cluster, runtime) = (cluster.clone(), Handle::current());
        // Danger: the client waits for its thread when it is dropped.
        blocking(move || runtime.block_on(make(&cluster, &wanted))).await?;
        let until = Instant::now() + PATIENCE;
        while found.is_none() && Instant::now() < until {
            sleep(BETWEEN_LOOKS).await;
            // A broker that has only half heard of it knows no leader yet.
            found = looks.find(&topic).await.unwrap_or_default();
        }
    }
    match found {
        Some(same) if same == partitions => {}
        Some(other) => {
            let why = format!("topic {topic} has {other} partitions, not {partitions}");
            return Err(BusError::Malformed(why));
        }
        None => return Err(BusError::Unavailable(format!("topic {topic} was made and is not to be seen yet"))),
    }
    let (cluster, runtime) = (cluster.clone(), Handle::current());
    blocking(move || runtime.block_on(check(&cluster, &topic))).await
}

fn admin(cluster: &Cluster) -> Result<AdminClient<Voice>, BusError> {
    let failed = |why| cluster.unavailable("no client can be made", &why, &Voice::default());
    AdminClient::from_config_and_context(&cluster.settings(), Voice::default()).map_err(failed)
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
}

async fn make(cluster: &Cluster, wanted: &Wanted) -> Result<(), BusError> {
    let Wanted { topic, partitions, replicas } = wanted;
    let (admin, there) = (admin(cluster)?, cluster.there(topic));
    let mut new = NewTopic::new(&there, *partitions as i32, TopicReplication::Fixed(i32::from(*replicas)));
    for (name, value) in KEPT {
        new = new.set(name, value);
    }
    // With three replicas one may be away, and what is acknowledged is still in two places.
    new = new.set("min.insync.replicas", if *replicas >= 3 { "2" } else { "1" });
    let failed = |why: &dyn std::fmt::Display| {
        let what = format!("topic {topic} with {replicas} replicas cannot be made");
        cluster.unavailable(&what, &why, admin.inner().context())
    };
    let made = admin.create_topics([&new], &options()).await.map_err(|why| failed(&why))?;
    match made.into_iter().next() {
        // Another replica of the service was faster.
        None | Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
        Some(Err((_, why))) => Err(failed(&why)),
    }
}

/// Whether the topic keeps everything.
async fn check(cluster: &Cluster, topic: &str) -> Result<(), BusError> {
    let (admin, there) = (admin(cluster)?, cluster.there(topic));
    let failed = |why: &dyn std::fmt::Display| {
        cluster.unavailable(&format!("the settings of topic {topic}"), &why, admin.inner().context())
    };
    let read = admin.describe_configs([&ResourceSpecifier::Topic(&there)], &options()).await;
    for resource in read.map_err(|why| failed(&why))? {
        let resource = resource.map_err(|why| failed(&why))?;
        for (name, needed) in KEPT {
            let value = resource.get(name).and_then(|entry| entry.value.as_deref());
            if let Some(other) = value.filter(|value| *value != needed) {
                let why = format!("topic {topic} forgets messages: its {name} is {other}; set it to {needed}");
                return Err(BusError::Malformed(why));
            }
        }
    }
    Ok(())
}
