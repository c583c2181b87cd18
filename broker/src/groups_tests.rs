#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

fn request(member_id: &str) -> Join {
    Join {
        member_id: member_id.to_owned(),
        instance_id: None,
        client_id: "c".to_owned(),
        client_host: "h".to_owned(),
        session_timeout: Duration::from_millis(600),
        rebalance_timeout: Duration::from_millis(500),
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), Bytes::from_static(b"m"))],
    }
}

async fn tick_until<T>(groups: &Groups, mut receiver: oneshot::Receiver<T>) -> T {
    loop {
        groups.tick();
        tokio::time::sleep(Duration::from_millis(5)).await;
        if let Ok(value) = receiver.try_recv() {
            return value;
        }
    }
}

#[tokio::test]
async fn two_members_share_then_one_dies() {
    let groups = Groups::new(10);
    let a = groups.join("g", request(""));
    let b = groups.join("g", request(""));
    let a = tick_until(&groups, a).await.unwrap();
    let b = tick_until(&groups, b).await.unwrap();
    assert_eq!((a.generation, b.generation), (1, 1));
    assert_eq!(a.leader, b.leader);
    let (leader, follower) = if a.leader == a.member_id { (a, b) } else { (b, a) };
    assert_eq!((leader.members.len(), follower.members.len()), (2, 0));
    let waiting = groups.sync("g", &follower.member_id, 1, vec![]);
    let plan = vec![(leader.member_id.clone(), Bytes::from_static(b"L")), (follower.member_id.clone(), Bytes::from_static(b"F"))];
    assert_eq!(groups.sync("g", &leader.member_id, 1, plan).await.unwrap().unwrap(), "L");
    assert_eq!(waiting.await.unwrap().unwrap(), "F");
    groups.heartbeat("g", &follower.member_id, 1).unwrap();
    assert_eq!(groups.heartbeat("g", &follower.member_id, 2), Err(ResponseError::IllegalGeneration));
    assert!(groups.check_commit("g", &follower.member_id, 1).is_ok());
    assert!(groups.check_commit("g", "", -1).is_err());

    // the follower goes silent: the leader is told to join again and is alone
    while groups.heartbeat("g", &leader.member_id, 1) != Err(ResponseError::RebalanceInProgress) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        groups.tick();
    }
    let alone = tick_until(&groups, groups.join("g", request(&leader.member_id))).await.unwrap();
    assert_eq!((alone.generation, alone.members.len()), (2, 1));
    groups.leave("g", &leader.member_id, None).unwrap();
    groups.tick();
    assert!(groups.names().is_empty());
    assert!(groups.check_commit("g", "", -1).is_ok());
}

#[tokio::test]
async fn a_member_that_does_not_rejoin_is_left_behind() {
    let groups = Groups::new(10);
    let a = tick_until(&groups, groups.join("g", request(""))).await.unwrap();
    let _ = groups.sync("g", &a.member_id, 1, vec![]).await.unwrap().unwrap();
    let b = groups.join("g", request(""));
    let b = tick_until(&groups, b).await.unwrap();
    assert_eq!((b.generation, b.members.len()), (2, 1));
    assert_eq!(groups.heartbeat("g", &a.member_id, 2), Err(ResponseError::UnknownMemberId));
}

#[tokio::test]
async fn strangers_are_refused() {
    let groups = Groups::new(1);
    assert_eq!(groups.join("g", request("nobody")).await.unwrap().unwrap_err(), ResponseError::UnknownMemberId);
    assert_eq!(groups.join("h", request("")).await.unwrap().unwrap_err(), ResponseError::GroupMaxSizeReached);
    let first = groups.join("g", request(""));
    let mut other = request("");
    other.protocols = vec![("sticky".to_owned(), Bytes::new())];
    let refused = groups.join("g", other).await.unwrap().unwrap_err();
    assert_eq!(refused, ResponseError::InconsistentGroupProtocol);
    tick_until(&groups, first).await.unwrap();
}
