/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every map, what it holds, who writes it, and its accessors. A map is named by its slot; the loader puts
 * the descriptor of the real map in its place (datapath/kernel/load.py, datapath/maps/catalog.py).
 */
#ifndef CPLANE_MAPS_H
#define CPLANE_MAPS_H

/* LLVM's own spelling of `ld_imm64 dst, type, value`: the same in bcc's clang and in any other. */
u64 bpf_pseudo(u64 type, u64 value) asm("llvm.bpf.pseudo");

#define BPF_PSEUDO_MAP_FD 1
#define MAP_SENTINEL 0x43500000	/* high enough to be no descriptor; checked by the loader */
#define MAP(slot) ((void *)bpf_pseudo(BPF_PSEUDO_MAP_FD, MAP_SENTINEL + (slot)))

/* LPM: prefix -> identity behind it. Written by the agent. */
static __always_inline struct remote_endpoint_info *ipcache_map(const struct ipcache_key *key)
{
	return map_lookup_elem(MAP(SLOT_IPCACHE), key);
}

/* LPM: (policy, peer, direction, L4 prefix) -> what to do. Written by the agent. */
static __always_inline struct policy_entry *policy_map(const struct policy_key *key)
{
	return map_lookup_elem(MAP(SLOT_POLICY), key);
}

/* Hash: local address -> where to deliver. Written by the agent. */
static __always_inline struct endpoint_info *lxc_map(const struct endpoint_key *key)
{
	return map_lookup_elem(MAP(SLOT_LXC), key);
}

/* Hash: host side of a pod's veth -> who is behind it. Written by the agent. */
static __always_inline struct device_info *devices_map(const struct device_key *key)
{
	return map_lookup_elem(MAP(SLOT_DEVICES), key);
}

/* Array: a number of the node. The losses are written by programs, all others by the agent. */
static __always_inline struct state_value *state_map(u32 slot)
{
	struct state_key key = { .slot = slot };

	return map_lookup_elem(MAP(SLOT_STATE), &key);
}

/* LRU: connection of one endpoint -> its state. Written by programs, swept by the agent. */
static __always_inline struct ct_entry *ct_map_lookup(const void *key, bool v6)
{
	return v6 ? map_lookup_elem(MAP(SLOT_CT6), key) : map_lookup_elem(MAP(SLOT_CT4), key);
}

static __always_inline long ct_map_update(const void *key, const struct ct_entry *entry, bool v6)
{
	return v6 ? map_update_elem(MAP(SLOT_CT6), key, entry, BPF_ANY) :
		    map_update_elem(MAP(SLOT_CT4), key, entry, BPF_ANY);
}

/* Per-CPU array: packets and bytes per outcome and direction. Written by programs. */
static __always_inline struct metrics_value *metrics_map(u32 index)
{
	struct metrics_key key = { .index = index };

	return map_lookup_elem(MAP(SLOT_METRICS), &key);
}

/* Per-CPU array of one: the packet in hand. Written by programs, which are never interrupted by another on
 * their CPU. Not on the stack, because the verifier follows every constant there down every path, and gives up.
 */
static __always_inline void *scratch_map(void)
{
	u32 key = 0;

	return map_lookup_elem(MAP(SLOT_SCRATCH), &key);
}

/* Ring buffer: one `struct record` per observation. NULL when it is full. */
static __always_inline struct record *events_reserve(void)
{
	return ringbuf_reserve(MAP(SLOT_EVENTS), sizeof(struct record), 0);
}

/* True while less than half of the ring waits for its reader. */
static __always_inline bool events_have_room(void)
{
	return ringbuf_query(MAP(SLOT_EVENTS), BPF_RB_AVAIL_DATA) < ringbuf_query(MAP(SLOT_EVENTS), BPF_RB_RING_SIZE) / 2;
}

/* Hash: frontend -> how it is served. Written by the agent, after what it refers to. */
static __always_inline struct lb_service *lb_services_map(const struct lb_service_key *key)
{
	return map_lookup_elem(MAP(SLOT_LB_SERVICES), key);
}

/* Hash: slot of a frontend -> backend. Written by the agent. */
static __always_inline struct lb_backend *lb_slots_map(u32 service_id, u32 slot)
{
	struct lb_slot_key key = { .service_id = service_id, .slot = slot };

	return map_lookup_elem(MAP(SLOT_LB_SLOTS), &key);
}

/* Hash: number of a backend -> the same. Written by the agent. */
static __always_inline struct lb_backend *lb_backends_map(u32 id)
{
	struct lb_backend_key key = { .id = id };

	return map_lookup_elem(MAP(SLOT_LB_BACKENDS), &key);
}

/* Hash: piece of a frontend's Maglev table. Written by the agent. */
static __always_inline struct lb_maglev *lb_maglev_map(u32 service_id, u32 chunk)
{
	struct lb_maglev_key key = { .service_id = service_id, .chunk = chunk };

	return map_lookup_elem(MAP(SLOT_LB_MAGLEV), &key);
}

/* Hash: (frontend, backend) -> clients may stay with it. Written by the agent. */
static __always_inline bool lb_members_map(u32 service_id, u32 backend_id)
{
	struct lb_member_key key = { .service_id = service_id, .backend_id = backend_id };

	return map_lookup_elem(MAP(SLOT_LB_MEMBERS), &key);
}

/* Hash: (network namespace, frontend) -> it has backends there, which are not redirected. Written by the agent. */
static __always_inline bool lb_skips_map(u64 netns_cookie, u32 service_id)
{
	struct lb_skip_key key = { .netns_cookie = netns_cookie, .service_id = service_id };

	return map_lookup_elem(MAP(SLOT_LB_SKIPS), &key);
}

/* Array: end of a socket's number -> what it believes to speak with. Written by programs. */
static __always_inline struct lb_peer *lb_peers_map(u64 cookie)
{
	struct lb_peer_key key = { .slot = cookie % LB_PEERS };

	return map_lookup_elem(MAP(SLOT_LB_PEERS), &key);
}

/* LRU: (socket, backend) -> frontend that it believes to speak with. Written by programs. */
static __always_inline struct lb_sock *lb_socks_map(const struct lb_sock_key *key)
{
	return map_lookup_elem(MAP(SLOT_LB_SOCKS), key);
}

/* LPM: (frontend, prefix) -> clients that it is for, or is not. Written by the agent. */
static __always_inline bool lb_ranges_map(const struct lb_range_key *key)
{
	return map_lookup_elem(MAP(SLOT_LB_RANGES), key);
}

/* LRU: packet of a translated connection -> what it becomes. Written by programs, swept by the agent. */
static __always_inline struct lb_flow *lb_flows_map(const struct lb_flow_key *key)
{
	return map_lookup_elem(MAP(SLOT_LB_FLOWS), key);
}

static __always_inline long lb_flows_set(const struct lb_flow_key *key, const struct lb_flow *flow, u64 flags)
{
	return map_update_elem(MAP(SLOT_LB_FLOWS), key, flow, flags);
}

/* LRU: datagram that comes in pieces -> its ports. Written by programs. */
static __always_inline struct lb_fragment *lb_fragments_map(const struct lb_fragment_key *key)
{
	return map_lookup_elem(MAP(SLOT_LB_FRAGMENTS), key);
}

static __always_inline void lb_fragments_set(const struct lb_fragment_key *key, const struct lb_fragment *fragment)
{
	map_update_elem(MAP(SLOT_LB_FRAGMENTS), key, fragment, BPF_ANY);
}

/* Hash: device to the outside -> the node's addresses there. Written by the agent. */
static __always_inline struct lb_netdev *lb_netdevs_map(u32 ifindex)
{
	struct lb_netdev_key key = { .ifindex = ifindex };

	return map_lookup_elem(MAP(SLOT_LB_NETDEVS), &key);
}

static __always_inline u64 state_number(u32 slot)
{
	struct state_value *value = state_map(slot);

	return value ? *(volatile u64 *)&value->number : 0;
}

#endif
