//! Counts fsyncs, in a process of its own: what the embedded bus has published is on the disk.
use messaging::sqlite::Sqlite;
use messaging::{Bus, Message};
use store::fsync::fsyncs;

#[tokio::test]
async fn every_publish_costs_an_fsync_and_a_look_none() {
    let folder = tempfile::tempdir().unwrap();
    let bus = Sqlite::create(&folder.path().join("bus.db")).unwrap();
    bus.create("t", 1).await.unwrap();
    let mut sub = bus.subscribe("g", &["t"]).await.unwrap();
    for offset in 0..20 {
        let before = fsyncs();
        let message = Message { key: "k".into(), headers: vec![], payload: vec![1] };
        bus.publish("t", vec![message]).await.unwrap();
        let published = fsyncs();
        assert!(published > before, "published");
        assert_eq!(sub.next(1).await.unwrap()[0].offset, offset);
        assert_eq!(bus.lag("g", "t").await, Ok(1));
        assert_eq!(fsyncs(), published, "looking");
        sub.acknowledge("t", 0, offset).await.unwrap();
        assert_eq!(bus.lag("g", "t").await, Ok(0));
    }
}
