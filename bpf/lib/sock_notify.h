/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Translations of sockets: one record for a connect(), which says what the socket asked for and what it got. */
#ifndef CPLANE_SOCK_NOTIFY_H
#define CPLANE_SOCK_NOTIFY_H

#define XLATE_POST_FWD 2

static __always_inline void sock_notify(struct sock_addr_ctx *ctx, const struct sock_place *frontend,
					const struct lb_backend *backend)
{
	struct record *r;

	if (!record_is_wanted(MONITOR_SOCKET))
		return;
	r = record_reserve(RECORD_SOCKET);
	if (!r)
		return;
	/* All but time and position, which come first. */
	__builtin_memset(&r->type, 0, sizeof(*r) - __builtin_offsetof(struct record, type));
	r->type = RECORD_SOCKET;
	r->subtype = XLATE_POST_FWD;
	r->flags = RECORD_EGRESS | (frontend->family == FAMILY_V6 ? RECORD_IPV6 : 0);
	r->protocol = frontend->protocol;
	r->saddr = frontend->addr;
	r->daddr = backend->addr;
	r->sport = frontend->port;
	r->dport = backend->port;
	r->socket_cookie = get_socket_cookie(ctx);
	r->cgroup_id = get_current_cgroup_id();
	r->netns_cookie = get_netns_cookie(ctx);
	record_end(r);
}

#endif
