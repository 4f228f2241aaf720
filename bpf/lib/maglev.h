/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Consistent hashing of connections: every node sends a client to the same backend, and a backend that comes or
 * goes moves few of them. Tables and hash are Cilium's, so that nodes of both agree.
 */
#ifndef CPLANE_MAGLEV_H
#define CPLANE_MAGLEV_H

#ifndef CONFIG_maglev_size
#define CONFIG_maglev_size 16381
#endif
/* Bytes 4-7 and 8-11 of the seed, here of the default one: for IPv4 and for IPv6. */
#ifndef CONFIG_maglev_seed4
#define CONFIG_maglev_seed4 0x71dcda46
#endif
#ifndef CONFIG_maglev_seed6
#define CONFIG_maglev_seed6 0x92505688
#endif

/* The destination's address is left out: the same client meets the same backend at all addresses of a service. */
static __always_inline u32 maglev_hash(const struct packet *p, __be16 sport)
{
	u32 ports = (u32)p->dport << 16 | sport;
	struct jhash h;

	if (!packet_is_v6(p))
		return jhash_3words(p->saddr.word[0], ports, p->protocol, CONFIG(maglev_seed4));
	h.a = p->saddr.word[0];
	h.b = p->saddr.word[1];
	h.c = p->saddr.word[2];
	jhash_mix(&h);
	h.a += p->saddr.word[3];
	h.b += ports;
	h.c += p->protocol;
	jhash_mix(&h);
	h.a += CONFIG(maglev_seed6);
	return jhash_final(&h);
}

/* The backend of the table; NULL while there is none. Of clients that stay with their backend all connections have
 * one place in the table.
 */
static __always_inline struct lb_backend *maglev_backend(const struct lb_service *service, const struct packet *p)
{
	u32 index = maglev_hash(p, service->affinity_s ? 0 : p->sport) % CONFIG(maglev_size);
	struct lb_maglev *chunk = lb_maglev_map(service->id, index / LB_CHUNK);

	return chunk ? lb_backends_map(chunk->backend_id[index % LB_CHUNK]) : NULL;
}

#endif
