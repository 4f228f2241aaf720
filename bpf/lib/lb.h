/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Frontends and the choice of a backend: the same for sockets and for packets. */
#ifndef CPLANE_LB_H
#define CPLANE_LB_H

/* The frontend with exactly this address; NULL if there is none. */
static __always_inline struct lb_service *lb_service_at(const struct addr *addr, __be16 port, u8 protocol, u8 family)
{
	struct lb_service_key key = { .addr = *addr, .port = port, .protocol = protocol, .family = family };

	return lb_services_map(&key);
}

/* The frontend of any address of the node with this port; NULL if there is none. */
static __always_inline struct lb_service *lb_service_any(__be16 port, u8 protocol, u8 family)
{
	struct lb_service_key key = { .port = port, .protocol = protocol, .family = family };

	return lb_services_map(&key);
}

/* The frontend that would be there if the one that redirects were not; NULL if there is none. */
static __always_inline struct lb_service *lb_service_beneath(const struct addr *addr, __be16 port, u8 protocol,
							     u8 family)
{
	return lb_service_at(addr, port, protocol, family | LB_BENEATH);
}

static __always_inline bool lb_is_loopback(const struct addr *addr, u8 family)
{
	if (family == FAMILY_V4)
		return (addr->word[0] & 0xff) == 127;
	return !(addr->word[0] | addr->word[1] | addr->word[2]) && addr->word[3] == bpf_htonl(1);
}

/* The backend of one of the slots, by a random number; NULL if nobody takes new connections. A slot that is not
 * there is one that was taken away between two lookups; the first one is there as long as there is any.
 */
static __always_inline struct lb_backend *lb_backend_random(const struct lb_service *service, bool local, u32 random)
{
	u32 count = local ? service->local_count : service->slots;
	u32 first = local ? service->local_first : 1;
	struct lb_backend *backend;

	if (!count)
		return NULL;
	/* The high bits of a product instead of a remainder: no division, and as even. */
	backend = lb_slots_map(service->id, first + (u32)((u64)random * count >> 32));
	return likely(backend) ? backend : lb_slots_map(service->id, first);
}

/* The backend that the client was sent to before, if it still may be; then its time begins anew. */
static __always_inline struct lb_backend *lb_affinity_backend(const struct lb_service *service,
							      const struct lb_affinity_key *client, u32 now)
{
	struct lb_affinity *held = map_lookup_elem(MAP(SLOT_LB_AFFINITY), client);

	if (!held || now - held->used >= service->affinity_s)
		return NULL;
	if (!lb_members_map(service->id, held->backend_id))
		return NULL;
	if (held->used != now)
		held->used = now;
	return lb_backends_map(held->backend_id);
}

/* The client stays with this backend. */
static __always_inline void lb_affinity_set(const struct lb_affinity_key *client, u32 backend_id, u32 now)
{
	struct lb_affinity value = { .backend_id = backend_id, .used = now };

	map_update_elem(MAP(SLOT_LB_AFFINITY), client, &value, BPF_ANY);
}

#endif
