/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every struct whose bytes Python also knows (datapath/maps, datapath/notify). No holes: padding is named. */
#ifndef CPLANE_TYPES_H
#define CPLANE_TYPES_H

#define FAMILY_V4 1
#define FAMILY_V6 2

#define IDENTITY_ANY 0		/* in a policy key; "unknown" elsewhere */
#define IDENTITY_HOST 1
#define IDENTITY_WORLD 2
#define IDENTITY_REMOTE_NODE 6
#define IDENTITY_KUBE_APISERVER 7	/* a node, too */
#define IDENTITY_SCOPE_LOCAL (1 << 24)	/* prefixes outside that a rule names */

#define DIRECTION_INGRESS 0
#define DIRECTION_EGRESS 1

/* An IPv6 address, or an IPv4 address in the first word and zeroes. */
struct addr {
	__be32 word[4];
};

struct ipcache_key {
	u32 prefixlen;
	u16 cluster_id;
	u8 pad;
	u8 family;
	struct addr addr;
};

#define IPCACHE_STATIC_BITS 32	/* cluster_id, pad, family */

struct remote_endpoint_info {
	u32 sec_identity;
	struct addr tunnel_endpoint;
	u16 pad;
	u8 key;
	u8 flags;
};

struct policy_key {
	u32 prefixlen;
	u32 policy_id;
	u32 sec_label;
	u8 direction;
	u8 protocol;
	__be16 dport;
};

#define POLICY_STATIC_BITS 72	/* policy_id, sec_label, direction */
#define POLICY_PROTO_BITS 8
#define POLICY_L4_BITS 24

struct policy_entry {
	__be16 proxy_port;
	u8 flags;
	u8 auth_type;
	u32 precedence;
	u32 cookie;
};

#define POLICY_FLAG_DENY 1
#define POLICY_FLAG_AUDITED 2	/* what it allows is looked up in the audit plane too */
#define POLICY_FLAG_AUTH_SAID 4	/* auth_type is what its own terms say, not what broader ones ask for */
#define POLICY_AUDIT_PLANE 0x80000000	/* added to a policy's number */
#define POLICY_L4_BITS_SHIFT 3

struct endpoint_key {
	struct addr addr;
	u8 family;
	u8 key;
	u16 cluster_id;
};

struct endpoint_info {
	u32 ifindex;
	u32 sec_id;
	u32 policy_id;
	u16 lxc_id;
	u16 flags;
	u8 mac[6];
	u8 node_mac[6];
};

#define ENDPOINT_FLAG_HOST 1	/* an address of the node itself */
#define ENDPOINT_FLAG_AUDIT 2	/* also of device_info: what its policy refuses passes */

struct device_key {
	u32 ifindex;
};

struct device_info {
	u32 sec_id;
	u32 policy_id;
	u16 lxc_id;
	u16 flags;
	__be32 ipv4;
	struct addr ipv6;
	u8 mac[6];
	u8 node_mac[6];
};

struct state_key {
	u32 slot;
};

struct state_value {
	u64 number;
};

#define STATE_POSITION 0
#define STATE_EPOCH 1
#define STATE_MONITOR 2
#define STATE_LOST 3
#define STATE_DEBUG_LOST 4
#define STATE_NETNS 5
#define STATE_PROXY 6

#define MONITOR_DROP 1
#define MONITOR_VERDICT 2
#define MONITOR_TRACE 4
#define MONITOR_SOCKET 8

/* A connection as one endpoint sees it: the smaller (address, port) first, so that both directions have one
 * key. `flavour` is 0 where ports tell the sides apart; an ICMP query has its identifier in the asker's port
 * and its request type in the other, and says here which side asked.
 */
struct ct4_key {
	__be32 addr[2];
	__be16 port[2];
	u16 lxc_id;
	u8 protocol;
	u8 flavour;
};

struct ct6_key {
	struct addr addr[2];
	__be16 port[2];
	u16 lxc_id;
	u8 protocol;
	u8 flavour;
};

#define CT_FLAVOUR_PORTS 0
#define CT_FLAVOUR_LOW_ASKS 1
#define CT_FLAVOUR_HIGH_ASKS 2

struct ct_entry {
	u64 epoch;		/* under which the initiator's direction was last allowed */
	u32 lifetime;		/* s of CLOCK_MONOTONIC; from then on the entry does not exist */
	u32 peer_identity;	/* of the other side, when last resolved */
	u32 cookie;		/* of the policy entry that allowed it */
	u16 reported_fwd;	/* s, modulo 2^16; last trace record from the initiator, and to it */
	u16 reported_rev;
	__be16 proxy_port;	/* CT_PROXIED: where the initiator's packets go */
	u16 pad2;
	u8 flags;		/* CT_* */
	u8 seen_fwd;		/* TCP flags reported so far */
	u8 seen_rev;
	u8 pad;
};

#define CT_INITIATOR_LOW 1	/* the first side of the key opened the connection */
#define CT_SEEN_NON_SYN 2
#define CT_CLOSING_FWD 4
#define CT_CLOSING_REV 8
#define CT_AUDITED 16	/* its last judgement was a refusal that let it through, and a record has told so */
#define CT_PROXIED 32		/* the initiator speaks with a proxy of this node, and not with the other side */
#define CT_FROM_PROXY 64	/* the initiator is a proxy of this node, which speaks with the other's address */
#define CT_CLOSING (CT_CLOSING_FWD | CT_CLOSING_REV)

struct metrics_key {
	u32 index;		/* reason << 2 | direction */
};

struct metrics_value {
	u64 packets;
	u64 bytes;
};

#define METRICS_INGRESS 1
#define METRICS_EGRESS 2
#define METRICS_SLOTS 1024

/* Services. A frontend is where clients go: an address, or any address of the node (all zeroes), a protocol and a
 * port. Slots 1..slots of it take new connections; those of backends on this node are next to each other.
 */
struct lb_service_key {
	struct addr addr;
	__be16 port;
	u8 protocol;
	u8 family;
};

#define LB_BENEATH 0x80	/* added to the family: the frontend that one which redirects has taken the place of */

struct lb_service {
	u32 affinity_s;		/* how long a client stays with its backend; 0: not at all */
	u16 id;			/* of the frontend */
	u16 slots;
	u16 local_first;	/* the first slot of this node's backends, and how many there are */
	u16 local_count;
	u16 flags;		/* LB_* */
	u8 kind;		/* LB_KIND_* */
	u8 pad;
};

#define LB_KIND_CLUSTER_IP 0
#define LB_KIND_NODE_PORT 1
#define LB_KIND_EXTERNAL_IP 2
#define LB_KIND_LOAD_BALANCER 3
#define LB_KIND_HOST_PORT 4
#define LB_KIND_LOCAL_REDIRECT 5

#define LB_FLAG_EXTERNAL_LOCAL 1	/* who comes from outside reaches this node's backends only */
#define LB_FLAG_INTERNAL_LOCAL 2	/* who is in the cluster does */
#define LB_FLAG_MAGLEV 4		/* connections from outside by the Maglev table, otherwise at random */
#define LB_FLAG_DSR 8			/* backends answer clients themselves */
#define LB_FLAG_SOURCE_RANGES 16	/* only clients of lb_ranges, and with ... */
#define LB_FLAG_SOURCE_DENY 32		/* ... this only others */
#define LB_FLAG_DROP 64			/* without backends packets are dropped, not refused */
#define LB_FLAG_OUTSIDE 128		/* who comes from outside is served, too */
#define LB_FLAG_SKIP_BACKENDS 256	/* its own backends are not redirected: lb_skips */

struct lb_slot_key {
	u32 service_id;
	u32 slot;
};

/* A backend, as a slot has it and as its number does. */
struct lb_backend {
	struct addr addr;
	__be16 port;
	u8 protocol;
	u8 family;
	u32 id;
	u32 flags;		/* LB_BACKEND_* */
};

#define LB_BACKEND_LOCAL 1	/* an endpoint of this node */

struct lb_backend_key {
	u32 id;
};

/* LB_CHUNK consecutive entries of a Maglev table: numbers of backends. */
#define LB_CHUNK 64

struct lb_maglev_key {
	u32 service_id;
	u32 chunk;
};

struct lb_maglev {
	u32 backend_id[LB_CHUNK];
};

/* Who a client was sent to. A client is the cookie of a network namespace (in the first two words), or an address. */
struct lb_affinity_key {
	struct addr client;
	u16 service_id;
	u8 netns_cookie;	/* which of the two it is */
	u8 pad;
};

struct lb_affinity {
	u32 backend_id;
	u32 used;		/* s of CLOCK_MONOTONIC */
};

/* The backend is one that clients of the service may stay with. */
struct lb_member_key {
	u32 service_id;
	u32 backend_id;
};

struct lb_member {
	u32 present;
};

/* Whose sockets are not redirected by a frontend: the network namespaces of its backends. */
struct lb_skip_key {
	u64 netns_cookie;
	u32 service_id;
	u32 pad;
};

struct lb_skip {
	u32 present;
};

struct lb_range_key {
	u32 prefixlen;
	u16 service_id;
	u8 pad;
	u8 family;
	struct addr addr;
};

#define LB_RANGE_STATIC_BITS 32	/* service_id, pad, family */

struct lb_range {
	u32 present;
};

/* What a socket believes to speak with: the frontend of the backend that its last connect() led to, or else of the
 * first one that a datagram of it was sent to. Sockets are numbered one after another, so the end of its number is a
 * place of its own for each of the last LB_PEERS; whoever loses it to a younger one has rows of lb_socks instead.
 */
struct lb_peer_key {
	u32 slot;		/* the cookie modulo LB_PEERS */
};

struct lb_peer {
	u64 cookie;		/* 0: nobody's */
	struct addr backend;
	struct addr addr;	/* of the frontend, as the client gave it */
	u64 netns_cookie;
	__be16 backend_port;
	__be16 port;
	u32 backend_id;
	u16 service_id;
	u8 protocol;
	u8 state;		/* LB_PEER_*; 0: it is none, or lb_socks knows better */
	u8 more;		/* lb_socks may have rows of this socket, too */
	u8 shared;		/* ... and of others, which have had this place */
	u8 family;
	u8 pad;
};

#define LB_PEERS 65536
#define LB_PEER_SENT 1		/* a datagram was sent there */
#define LB_PEER_CONNECTED 2

/* The same of sockets that lost their place, and of further backends that datagrams were sent to. */
struct lb_sock_key {
	u64 cookie;
	struct addr addr;	/* of the backend */
	__be16 port;
	u16 family;
	u32 protocol;
};

struct lb_sock {
	struct addr addr;	/* of the frontend, as the client gave it */
	__be16 port;
	u16 service_id;
	u32 backend_id;
	u32 state;		/* LB_PEER_* */
};

/* Connections that are translated packet by packet: what a packet that reads so becomes. Each has two, one for
 * either direction.
 */
struct lb_flow_key {
	struct addr saddr;
	struct addr daddr;
	__be16 sport;
	__be16 dport;
	u8 protocol;
	u8 family;
	u16 kind;		/* FLOW_KEY_* */
};

#define FLOW_KEY_PACKET 0
#define FLOW_KEY_TUNNELLED 1	/* of a packet that comes in another one (dsr_receive.h): the row says its backend */

struct lb_route {		/* the next hop, and what it takes */
	u32 ifindex;		/* 0: not known */
	u16 mtu;
	u8 dmac[6];
	u8 smac[6];
	u16 flags;		/* LB_NETDEV_*, of the device; mute if it has no row */
};

struct lb_flow {
	struct addr saddr;
	struct addr daddr;
	__be16 sport;
	__be16 dport;
	u32 lifetime;		/* s of CLOCK_MONOTONIC; from then on the entry does not exist */
	u32 epoch;		/* the low half of that under which the backend was last looked for */
	u32 backend_id;
	u16 service_id;
	u8 flags;		/* LB_FLOW_* */
	u8 pad;
	u32 tick;		/* of the programs' own clock, when lifetime and route were last looked at */
	struct lb_route route;	/* as it was then */
};

#define LB_FLOW_REVERSE 1	/* from the backend to the client */
#define LB_FLOW_SNAT 2		/* the backend sees the node, not the client */
#define LB_FLOW_DSR 4		/* the backend answers by itself */
#define LB_FLOW_CLOSING_FWD 8
#define LB_FLOW_CLOSING_REV 16
#define LB_FLOW_SEEN_NON_SYN 32
#define LB_FLOW_OWN 64		/* a connection of the node itself, whose port stood for a client already */

/* Ports of a packet that came in pieces, for the pieces that do not have them. */
struct lb_fragment_key {
	struct addr saddr;
	struct addr daddr;
	u32 id;
	u8 protocol;
	u8 family;
	u16 pad;
};

struct lb_fragment {
	__be16 sport;
	__be16 dport;
};

/* A device by which the node reaches the outside. */
struct lb_netdev_key {
	u32 ifindex;
};

struct lb_netdev {
	__be32 ipv4;		/* what backends of other nodes see of clients; zero: no such address */
	struct addr ipv6;
	u8 mac[6];		/* what is sent to another one is not for us */
	u16 flags;		/* LB_NETDEV_* */
};

#define LB_NETDEV_REDIRECT 1	/* takes frames from XDP programs of other devices */
#define LB_NETDEV_MUTE 2	/* and not even what its own one sends back by it */

struct record {
	u64 time_ns;
	u64 position;
	u8 type;
	u8 subtype;
	u8 flags;
	u8 match_type;
	u8 trace_reason;
	u8 protocol;
	u8 tcp_flags;
	u8 file;
	struct addr saddr;
	struct addr daddr;
	__be16 sport;
	__be16 dport;
	u32 src_identity;
	u32 dst_identity;
	u16 src_lxc;
	u16 dst_lxc;
	u32 ifindex;
	s32 verdict;
	u32 cookie;
	u32 length;
	u8 smac[6];
	u8 dmac[6];
	u16 line;
	u8 icmp_type;
	u8 icmp_code;
	union {
		struct {	/* of debug records */
			u32 hash;
			u32 arg1;
			u32 arg2;
			u32 arg3;
			u16 cpu;
			u16 source;	/* the endpoint whose program speaks */
			u32 pad;
		};
		struct {	/* of sockets, which were sent from saddr, a frontend, to daddr */
			u64 socket_cookie;
			u64 cgroup_id;
			u64 netns_cookie;
		};
	};	/* zeroes in all others */
};

/* Room for `struct packet` (packet.h) and `struct nat` (nat.h), which Python has no business with. */
struct scratch {
	u8 bytes[512];
};

#define RECORD_DROP 1
#define RECORD_DEBUG 2
#define RECORD_TRACE 4
#define RECORD_VERDICT 5
#define RECORD_SOCKET 7

#define RECORD_IPV6 1
#define RECORD_EGRESS 2
#define RECORD_REPLY 4
#define RECORD_REPLY_KNOWN 8
#define RECORD_AUDITED 16	/* refused, and let through all the same */

/* bpf_map_type is the agent's business; these are the numbers of maps in MAP(). */
#define SLOT_IPCACHE 1
#define SLOT_POLICY 2
#define SLOT_LXC 3
#define SLOT_DEVICES 4
#define SLOT_STATE 5
#define SLOT_CT4 6
#define SLOT_CT6 7
#define SLOT_METRICS 8
#define SLOT_EVENTS 9
#define SLOT_SCRATCH 10
#define SLOT_LB_SERVICES 11
#define SLOT_LB_SLOTS 12
#define SLOT_LB_BACKENDS 13
#define SLOT_LB_MAGLEV 14
#define SLOT_LB_AFFINITY 15
#define SLOT_LB_MEMBERS 16
#define SLOT_LB_RANGES 17
#define SLOT_LB_SOCKS 18
#define SLOT_LB_PEERS 19
#define SLOT_LB_SKIPS 20
#define SLOT_LB_FLOWS 21
#define SLOT_LB_FRAGMENTS 22
#define SLOT_LB_NETDEVS 23

#endif
