//! Consumer groups, classic protocol: members join, one of them (the leader) assigns, all follow.
//!
//! Memory only: after a restart of the broker the members join again. Committed offsets are in [`crate::offsets`].
//! Every wait of a member ends: joining at the rebalance time-out, syncing when the leader's session ends.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

/// The first members of an empty group wait this long for others, so that one rebalance serves all.
const FIRST_REBALANCE_DELAY: Duration = Duration::from_millis(200);
/// How often [`Groups::tick`] wants to be called.
pub const TICK: Duration = Duration::from_millis(50);
const MEMBERS_PER_GROUP_MAX: usize = 1000;
const SESSION_TIMEOUT_MAX: Duration = Duration::from_secs(30 * 60);

/// What a member sends to join.
#[derive(Debug)]
pub struct Join {
    /// Empty at the first time.
    pub member_id: String,
    /// Set for a static member.
    pub instance_id: Option<String>,
    /// For display.
    pub client_id: String,
    /// For display.
    pub client_host: String,
    /// A member silent for longer is removed.
    pub session_timeout: Duration,
    /// How long the group waits for its members to join again.
    pub rebalance_timeout: Duration,
    /// `consumer` for consumers.
    pub protocol_type: String,
    /// Assignment strategies with the member's metadata, best first.
    pub protocols: Vec<(String, Bytes)>,
}

/// A finished join.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The new generation.
    pub generation: i32,
    /// The strategy chosen.
    pub protocol: String,
    /// Type of the group.
    pub protocol_type: String,
    /// Who assigns.
    pub leader: String,
    /// The id of the member that this is for.
    pub member_id: String,
    /// Everybody's id, instance id and metadata; only for the leader.
    pub members: Vec<(String, Option<String>, Bytes)>,
}

/// A member as shown to administrators.
#[derive(Debug, Clone)]
pub struct MemberInfo {
    /// Member id.
    pub member_id: String,
    /// Static member's name.
    pub instance_id: Option<String>,
    /// The client's own name.
    pub client_id: String,
    /// The client's address.
    pub client_host: String,
    /// Metadata for the chosen strategy.
    pub metadata: Bytes,
    /// The current assignment.
    pub assignment: Bytes,
}

/// A group as shown to administrators.
#[derive(Debug, Clone)]
pub struct GroupInfo {
    /// Name as in Apache Kafka: Empty, PreparingRebalance, CompletingRebalance, Stable.
    pub state: &'static str,
    /// `consumer` for consumers.
    pub protocol_type: String,
    /// The chosen strategy.
    pub protocol: String,
    /// Members.
    pub members: Vec<MemberInfo>,
}

type JoinReply = oneshot::Sender<Result<Joined, ResponseError>>;
type SyncReply = oneshot::Sender<Result<Bytes, ResponseError>>;

#[derive(Debug)]
struct Member {
    instance_id: Option<String>,
    client_id: String,
    client_host: String,
    session_timeout: Duration,
    rebalance_timeout: Duration,
    protocols: Vec<(String, Bytes)>,
    assignment: Bytes,
    seen: Instant,
    joining: Option<JoinReply>,
    syncing: Option<SyncReply>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Empty,
    /// Members join; ends when all have and `not_before` is past, or at `deadline`.
    Preparing {
        not_before: Instant,
        deadline: Instant,
    },
    /// The leader's assignment is awaited.
    Completing,
    Stable,
}

#[derive(Debug)]
struct Group {
    state: State,
    generation: i32,
    protocol_type: String,
    protocol: String,
    leader: Option<String>,
    members: BTreeMap<String, Member>,
}

/// All groups.
#[derive(Debug)]
pub struct Groups {
    groups_max: usize,
    groups: Mutex<HashMap<String, Arc<Mutex<Group>>>>,
}

impl Groups {
    /// No groups yet.
    pub fn new(groups_max: usize) -> Self {
        Self { groups_max, groups: Mutex::new(HashMap::new()) }
    }

    /// Joins; the receiver gets the answer when the rebalance is done.
    pub fn join(&self, group_id: &str, join: Join) -> oneshot::Receiver<Result<Joined, ResponseError>> {
        let (reply, receiver) = oneshot::channel();
        // the map stays locked meanwhile: `tick` must not forget a group between its making and its first member
        let mut groups = self.groups.lock();
        if !groups.contains_key(group_id) && groups.len() >= self.groups_max {
            let _ = reply.send(Err(ResponseError::GroupMaxSizeReached));
            return receiver;
        }
        let group = groups.entry(group_id.to_owned()).or_insert_with(|| Arc::new(Mutex::new(Group::new())));
        group.lock().join(join, reply);
        receiver
    }

    /// Asks for the assignment; the leader brings it along.
    pub fn sync(
        &self,
        group_id: &str,
        member_id: &str,
        generation: i32,
        assignments: Vec<(String, Bytes)>,
    ) -> oneshot::Receiver<Result<Bytes, ResponseError>> {
        let (reply, receiver) = oneshot::channel();
        match self.get(group_id) {
            Some(group) => group.lock().sync(member_id, generation, assignments, reply),
            None => {
                let _ = reply.send(Err(ResponseError::UnknownMemberId));
            }
        }
        receiver
    }

    /// A sign of life.
    pub fn heartbeat(&self, group_id: &str, member_id: &str, generation: i32) -> Result<(), ResponseError> {
        let group = self.get(group_id).ok_or(ResponseError::UnknownMemberId)?;
        let mut group = group.lock();
        let state = group.state;
        group.member(member_id, generation)?.seen = Instant::now();
        match state {
            State::Preparing { .. } => Err(ResponseError::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    /// A member goes.
    pub fn leave(&self, group_id: &str, member_id: &str, instance_id: Option<&str>) -> Result<(), ResponseError> {
        let group = self.get(group_id).ok_or(ResponseError::UnknownMemberId)?;
        let mut group = group.lock();
        let by_instance = || {
            let same = |m: &Member| instance_id.is_some() && m.instance_id.as_deref() == instance_id;
            group.members.iter().find(|(_, m)| same(m)).map(|(id, _)| id.clone())
        };
        let id = if group.members.contains_key(member_id) { Some(member_id.to_owned()) } else { by_instance() };
        group.remove(&id.ok_or(ResponseError::UnknownMemberId)?);
        Ok(())
    }

    /// May this member commit offsets? Without a member id (no group membership) only while nobody is in the group.
    pub fn check_commit(&self, group_id: &str, member_id: &str, generation: i32) -> Result<(), ResponseError> {
        let Some(group) = self.get(group_id) else {
            return if generation < 0 { Ok(()) } else { Err(ResponseError::IllegalGeneration) };
        };
        let mut group = group.lock();
        if generation < 0 && group.members.is_empty() {
            return Ok(());
        }
        group.member(member_id, generation)?.seen = Instant::now();
        Ok(())
    }

    /// Names of groups that have members.
    pub fn names(&self) -> Vec<String> {
        self.groups.lock().keys().cloned().collect()
    }

    /// A group with members.
    pub fn describe(&self, group_id: &str) -> Option<GroupInfo> {
        let group = self.get(group_id)?;
        let group = group.lock();
        let member = |(id, m): (&String, &Member)| MemberInfo {
            member_id: id.clone(),
            instance_id: m.instance_id.clone(),
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            metadata: m.metadata(&group.protocol),
            assignment: m.assignment.clone(),
        };
        Some(GroupInfo {
            state: match group.state {
                State::Empty => "Empty",
                State::Preparing { .. } => "PreparingRebalance",
                State::Completing => "CompletingRebalance",
                State::Stable => "Stable",
            },
            protocol_type: group.protocol_type.clone(),
            protocol: group.protocol.clone(),
            members: group.members.iter().map(member).collect(),
        })
    }

    /// Moves time on: ends sessions and rebalances that are due, forgets empty groups.
    pub fn tick(&self) {
        let now = Instant::now();
        self.groups.lock().retain(|_, group| {
            let mut group = group.lock();
            group.expire(now);
            group.try_complete(now);
            !group.members.is_empty()
        });
    }

    fn get(&self, group_id: &str) -> Option<Arc<Mutex<Group>>> {
        self.groups.lock().get(group_id).cloned()
    }
}

impl Member {
    fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols.iter().find(|(name, _)| name == protocol).map_or_else(Bytes::new, |(_, m)| m.clone())
    }
}

impl Group {
    fn new() -> Self {
        Self { state: State::Empty, generation: 0, protocol_type: String::new(), protocol: String::new(), leader: None, members: BTreeMap::new() }
    }

    fn member(&mut self, member_id: &str, generation: i32) -> Result<&mut Member, ResponseError> {
        let current = self.generation;
        let member = self.members.get_mut(member_id).ok_or(ResponseError::UnknownMemberId)?;
        if generation == current { Ok(member) } else { Err(ResponseError::IllegalGeneration) }
    }

    fn join(&mut self, join: Join, reply: JoinReply) {
        if let Err(error) = self.check_join(&join) {
            let _ = reply.send(Err(error));
            return;
        }
        let mut member_id = join.member_id;
        if member_id.is_empty() {
            // a static member that comes back under its name takes the place of its former self
            let same = |m: &Member| join.instance_id.is_some() && m.instance_id == join.instance_id;
            let former = self.members.iter().find(|(_, m)| same(m)).map(|(id, _)| id.clone());
            if let Some(former) = former {
                self.remove(&former);
            }
            member_id = format!("{}-{}", join.client_id, Uuid::new_v4());
        } else if let Some(known) = self.members.get_mut(&member_id) {
            let follower = self.leader.as_ref() != Some(&member_id);
            if self.state == State::Stable && follower && known.protocols == join.protocols {
                known.seen = Instant::now();
                let _ = reply.send(Ok(self.joined(&member_id)));
                return;
            }
        }
        self.protocol_type = join.protocol_type;
        let member = Member {
            instance_id: join.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            session_timeout: join.session_timeout.min(SESSION_TIMEOUT_MAX),
            rebalance_timeout: join.rebalance_timeout.min(SESSION_TIMEOUT_MAX),
            protocols: join.protocols,
            assignment: Bytes::new(),
            seen: Instant::now(),
            joining: Some(reply),
            syncing: None,
        };
        self.members.insert(member_id, member);
        self.prepare();
        self.try_complete(Instant::now());
    }

    fn check_join(&self, join: &Join) -> Result<(), ResponseError> {
        if !join.member_id.is_empty() && !self.members.contains_key(&join.member_id) {
            return Err(ResponseError::UnknownMemberId);
        }
        if self.members.len() >= MEMBERS_PER_GROUP_MAX && join.member_id.is_empty() {
            return Err(ResponseError::GroupMaxSizeReached);
        }
        let others = || self.members.iter().filter(|(id, _)| **id != join.member_id);
        let shared = |name: &str| others().all(|(_, m)| m.protocols.iter().any(|(n, _)| n == name));
        let same_type = others().next().is_none() || self.protocol_type == join.protocol_type;
        if !same_type || !join.protocols.iter().any(|(name, _)| shared(name)) {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        Ok(())
    }

    /// Starts a rebalance unless one is being prepared.
    fn prepare(&mut self) {
        if matches!(self.state, State::Preparing { .. }) {
            return;
        }
        let now = Instant::now();
        let longest = self.members.values().map(|m| m.rebalance_timeout).max().unwrap_or_default();
        let not_before = if self.state == State::Empty { now + FIRST_REBALANCE_DELAY } else { now };
        self.state = State::Preparing { not_before, deadline: now + longest };
        for member in self.members.values_mut() {
            if let Some(syncing) = member.syncing.take() {
                let _ = syncing.send(Err(ResponseError::RebalanceInProgress));
            }
        }
    }

    fn try_complete(&mut self, now: Instant) {
        let State::Preparing { not_before, deadline } = self.state else { return };
        let all_joined = self.members.values().all(|m| m.joining.is_some());
        if now < not_before || !(all_joined || now >= deadline) {
            return;
        }
        self.members.retain(|_, m| m.joining.is_some());
        let Some(first) = self.members.keys().next().cloned() else {
            self.state = State::Empty;
            return;
        };
        self.generation = self.generation.wrapping_add(1).max(1);
        let leader = self.leader.take().filter(|l| self.members.contains_key(l)).unwrap_or(first);
        let supported = |name: &str| self.members.values().all(|m| m.protocols.iter().any(|(n, _)| n == name));
        let offered = self.members.get(&leader).map(|m| m.protocols.as_slice()).unwrap_or_default();
        self.protocol = offered.iter().map(|(n, _)| n).find(|n| supported(n)).cloned().unwrap_or_default();
        self.leader = Some(leader);
        self.state = State::Completing;
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let joined = self.joined(&id);
            if let Some(member) = self.members.get_mut(&id) {
                member.seen = now;
                if let Some(reply) = member.joining.take() {
                    let _ = reply.send(Ok(joined));
                }
            }
        }
    }

    fn joined(&self, member_id: &str) -> Joined {
        let leader = self.leader.clone().unwrap_or_default();
        let entry = |(id, m): (&String, &Member)| (id.clone(), m.instance_id.clone(), m.metadata(&self.protocol));
        let members = if leader == member_id { self.members.iter().map(entry).collect() } else { Vec::new() };
        Joined {
            generation: self.generation,
            protocol: self.protocol.clone(),
            protocol_type: self.protocol_type.clone(),
            leader,
            member_id: member_id.to_owned(),
            members,
        }
    }

    fn sync(&mut self, member_id: &str, generation: i32, assignments: Vec<(String, Bytes)>, reply: SyncReply) {
        let state = self.state;
        let is_leader = self.leader.as_deref() == Some(member_id);
        let member = match self.member(member_id, generation) {
            Ok(member) => member,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        member.seen = Instant::now();
        match state {
            State::Empty | State::Preparing { .. } => {
                let _ = reply.send(Err(ResponseError::RebalanceInProgress));
            }
            State::Stable => {
                let _ = reply.send(Ok(member.assignment.clone()));
            }
            State::Completing => {
                member.syncing = Some(reply);
                if is_leader {
                    self.assign(assignments);
                }
            }
        }
    }

    fn assign(&mut self, assignments: Vec<(String, Bytes)>) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                // its own copy: a slice would keep the whole request in memory
                member.assignment = Bytes::copy_from_slice(&assignment);
            }
        }
        self.state = State::Stable;
        for member in self.members.values_mut() {
            member.seen = Instant::now();
            if let Some(syncing) = member.syncing.take() {
                let _ = syncing.send(Ok(member.assignment.clone()));
            }
        }
    }

    fn remove(&mut self, member_id: &str) {
        if let Some(mut member) = self.members.remove(member_id) {
            if let Some(reply) = member.joining.take() {
                let _ = reply.send(Err(ResponseError::UnknownMemberId));
            }
            if let Some(reply) = member.syncing.take() {
                let _ = reply.send(Err(ResponseError::UnknownMemberId));
            }
        }
        if self.members.is_empty() {
            self.state = State::Empty;
            self.leader = None;
            return;
        }
        self.prepare();
        self.try_complete(Instant::now());
    }

    /// Removes members that were silent too long. Who waits for an answer cannot send a sign of life.
    fn expire(&mut self, now: Instant) {
        let silent: Vec<String> = self
            .members
            .iter()
            .filter(|(_, m)| m.joining.is_none() && m.syncing.is_none() && now > m.seen + m.session_timeout)
            .map(|(id, _)| id.clone())
            .collect();
        for id in silent {
            tracing::info!(member = id, "group member silent for longer than its session: removed");
            self.remove(&id);
        }
    }
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;
