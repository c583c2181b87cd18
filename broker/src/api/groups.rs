//! Consumer groups on the wire; what they mean is in [`crate::groups`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    BrokerId, DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, GroupId, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::{Caller, blocking, text};
use crate::broker::{NODE_ID, Shared};
use crate::groups::Join;

/// A group coordinator, as opposed to one for transactions (1).
const KEY_TYPE_GROUP: i8 = 0;
const NO_TRANSACTIONS: &str = "this broker does not support transactions";
/// On top of what a rebalance may last by itself, for the clock that ends it.
const REBALANCE_MARGIN: Duration = Duration::from_secs(5);
const REBALANCE_MAX: Duration = Duration::from_secs(30 * 60);

pub(super) async fn find_coordinator(shared: Arc<Shared>, request: FindCoordinatorRequest, caller: Caller) -> FindCoordinatorResponse {
    // fatal for clients, in contrast to a coordinator that is "not available" and asked for again and again
    let refused =
        (request.key_type != KEY_TYPE_GROUP).then_some((ResponseError::TransactionalIdAuthorizationFailed.code(), Some(text(NO_TRANSACTIONS))));
    let (code, message) = refused.unwrap_or((0, None));
    let node = if code == 0 { NODE_ID } else { -1 };
    if caller.version >= 4 {
        let coordinators = request.coordinator_keys.into_iter().map(|key| {
            Coordinator::default()
                .with_key(key)
                .with_error_code(code)
                .with_error_message(message.clone())
                .with_node_id(BrokerId(node))
                .with_host(text(&shared.host))
                .with_port(i32::from(shared.port))
        });
        return FindCoordinatorResponse::default().with_coordinators(coordinators.collect());
    }
    let response = FindCoordinatorResponse::default()
        .with_error_code(code)
        .with_node_id(BrokerId(node))
        .with_host(text(&shared.host))
        .with_port(i32::from(shared.port));
    if caller.version >= 1 { response.with_error_message(message) } else { response }
}

pub(super) async fn join(shared: Arc<Shared>, request: JoinGroupRequest, caller: Caller) -> JoinGroupResponse {
    let failed = |error: ResponseError, member_id: StrBytes| {
        let response = JoinGroupResponse::default().with_error_code(error.code()).with_member_id(member_id);
        response.with_generation_id(-1).with_protocol_name(Some(StrBytes::new()))
    };
    if request.group_id.is_empty() {
        return failed(ResponseError::InvalidGroupId, request.member_id);
    }
    let Ok(session_ms @ 1..) = u64::try_from(request.session_timeout_ms) else {
        return failed(ResponseError::InvalidSessionTimeout, request.member_id);
    };
    // version 0 has no time-out of its own for the rebalance
    let rebalance_ms = u64::try_from(request.rebalance_timeout_ms).unwrap_or(session_ms);
    let rebalance_timeout = Duration::from_millis(rebalance_ms).min(REBALANCE_MAX);
    let join = Join {
        member_id: request.member_id.to_string(),
        instance_id: request.group_instance_id.as_ref().map(|id| id.to_string()),
        client_id: caller.client_id,
        client_host: caller.peer.ip().to_string(),
        session_timeout: Duration::from_millis(session_ms),
        rebalance_timeout,
        protocol_type: request.protocol_type.to_string(),
        protocols: request.protocols.iter().map(|p| (p.name.to_string(), Bytes::copy_from_slice(&p.metadata))).collect(),
    };
    let joined = shared.groups.join(&request.group_id, join);
    let joined = tokio::select! {
        () = shared.shutdown.cancelled() => Err(ResponseError::CoordinatorNotAvailable),
        joined = tokio::time::timeout(REBALANCE_MAX + REBALANCE_MARGIN, joined) => match joined {
            Ok(Ok(joined)) => joined,
            // the member was replaced, or time is over
            _ => Err(ResponseError::RebalanceInProgress),
        },
    };
    match joined {
        Err(error) => failed(error, request.member_id),
        Ok(joined) => {
            let members = joined.members.into_iter().map(|(id, instance, metadata)| {
                let member = JoinGroupResponseMember::default().with_member_id(text(&id)).with_metadata(metadata);
                if caller.version >= 5 { member.with_group_instance_id(instance.as_deref().map(text)) } else { member }
            });
            let response = JoinGroupResponse::default()
                .with_generation_id(joined.generation)
                .with_protocol_name(Some(text(&joined.protocol)))
                .with_leader(text(&joined.leader))
                .with_member_id(text(&joined.member_id))
                .with_members(members.collect());
            if caller.version >= 7 { response.with_protocol_type(Some(text(&joined.protocol_type))) } else { response }
        }
    }
}

pub(super) async fn sync(shared: Arc<Shared>, request: SyncGroupRequest, caller: Caller) -> SyncGroupResponse {
    let assignments = request.assignments.into_iter().map(|a| (a.member_id.to_string(), a.assignment)).collect();
    let synced = shared.groups.sync(&request.group_id, &request.member_id, request.generation_id, assignments);
    let synced = tokio::select! {
        () = shared.shutdown.cancelled() => Err(ResponseError::CoordinatorNotAvailable),
        synced = tokio::time::timeout(REBALANCE_MAX + REBALANCE_MARGIN, synced) => match synced {
            Ok(Ok(synced)) => synced,
            _ => Err(ResponseError::RebalanceInProgress),
        },
    };
    match synced {
        Err(error) => SyncGroupResponse::default().with_error_code(error.code()),
        Ok(assignment) => {
            let response = SyncGroupResponse::default().with_assignment(assignment);
            if caller.version >= 5 { response.with_protocol_type(request.protocol_type).with_protocol_name(request.protocol_name) } else { response }
        }
    }
}

pub(super) async fn heartbeat(shared: Arc<Shared>, request: HeartbeatRequest, _caller: Caller) -> HeartbeatResponse {
    let beat = shared.groups.heartbeat(&request.group_id, &request.member_id, request.generation_id);
    HeartbeatResponse::default().with_error_code(beat.err().map_or(0, |e| e.code()))
}

pub(super) async fn leave(shared: Arc<Shared>, request: LeaveGroupRequest, caller: Caller) -> LeaveGroupResponse {
    if caller.version < 3 {
        let left = shared.groups.leave(&request.group_id, &request.member_id, None);
        return LeaveGroupResponse::default().with_error_code(left.err().map_or(0, |e| e.code()));
    }
    let leave = |member: MemberIdentity| {
        let instance = member.group_instance_id.as_deref();
        let left = shared.groups.leave(&request.group_id, &member.member_id, instance);
        MemberResponse::default()
            .with_member_id(member.member_id.clone())
            .with_group_instance_id(member.group_instance_id.clone())
            .with_error_code(left.err().map_or(0, |e| e.code()))
    };
    LeaveGroupResponse::default().with_members(request.members.into_iter().map(leave).collect())
}

pub(super) async fn list(shared: Arc<Shared>, request: ListGroupsRequest, caller: Caller) -> ListGroupsResponse {
    let names: BTreeSet<String> = shared.groups.names().into_iter().chain(shared.offsets.groups()).collect();
    let listed = names.into_iter().filter_map(|name| {
        let info = shared.groups.describe(&name);
        let state = info.as_ref().map_or("Empty", |i| i.state);
        if !request.states_filter.is_empty() && !request.states_filter.iter().any(|s| **s == *state) {
            return None;
        }
        let group = ListedGroup::default()
            .with_group_id(GroupId(text(&name)))
            .with_protocol_type(info.map_or_else(StrBytes::new, |i| text(&i.protocol_type)));
        Some(if caller.version >= 4 { group.with_group_state(text(state)) } else { group })
    });
    ListGroupsResponse::default().with_groups(listed.collect())
}

pub(super) async fn describe(shared: Arc<Shared>, request: DescribeGroupsRequest, caller: Caller) -> DescribeGroupsResponse {
    let groups = request.groups.into_iter().map(|id| {
        let info = shared.groups.describe(&id);
        let has_offsets = || !shared.offsets.all(&id).is_empty();
        let Some(info) = info else {
            let state = if has_offsets() { "Empty" } else { "Dead" };
            return DescribedGroup::default().with_group_id(id).with_group_state(text(state));
        };
        let members = info.members.into_iter().map(|m| {
            let member = DescribedGroupMember::default()
                .with_member_id(text(&m.member_id))
                .with_client_id(text(&m.client_id))
                .with_client_host(text(&m.client_host))
                .with_member_metadata(m.metadata)
                .with_member_assignment(m.assignment);
            if caller.version >= 4 { member.with_group_instance_id(m.instance_id.as_deref().map(text)) } else { member }
        });
        DescribedGroup::default()
            .with_group_id(id)
            .with_group_state(text(info.state))
            .with_protocol_type(text(&info.protocol_type))
            .with_protocol_data(text(&info.protocol))
            .with_members(members.collect())
    });
    DescribeGroupsResponse::default().with_groups(groups.collect())
}

pub(super) async fn delete(shared: Arc<Shared>, request: DeleteGroupsRequest, _caller: Caller) -> DeleteGroupsResponse {
    let results = blocking(move || {
        let delete = |id: GroupId| {
            let busy = shared.groups.describe(&id).is_some_and(|info| !info.members.is_empty());
            let code = if busy {
                ResponseError::NonEmptyGroup.code()
            } else {
                match shared.offsets.remove_group(&id) {
                    Ok(true) => 0,
                    Ok(false) => ResponseError::GroupIdNotFound.code(),
                    Err(error) => {
                        tracing::error!(%error, "cannot remove a group's offsets");
                        ResponseError::KafkaStorageError.code()
                    }
                }
            };
            DeletableGroupResult::default().with_group_id(id).with_error_code(code)
        };
        request.groups_names.into_iter().map(delete).collect()
    });
    DeleteGroupsResponse::default().with_results(results.await.unwrap_or_default())
}
