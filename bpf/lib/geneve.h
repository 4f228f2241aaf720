/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Geneve (RFC 8926): a frame in a datagram, with options beside it. Of these there is one here, Cilium's, which names
 * the frontend that a client has asked for.
 */
#ifndef CPLANE_GENEVE_H
#define CPLANE_GENEVE_H

#define GENEVE_PORT 6081
#define GENEVE_SOURCE_PORTS 0xc000	/* from here on; one for each connection, as who shares load looks at them */
#define GENEVE_ETHERNET 0x6558
#define GENEVE_VERSION_SHIFT 6
#define GENEVE_LENGTH_MASK 0x3f	/* of the options, in units of 4 bytes */
#define GENEVE_CONTROL 0x80	/* of the flags: it is about the tunnel itself */
#define GENEVE_CRITICAL 0x40	/* ... there is an option that has to be understood */
#define GENEVE_OPTION_LENGTH_MASK 0x1f
#define GENEVE_DSR_CLASS 0x014b	/* IANA: Cilium */
#define GENEVE_DSR_TYPE 0x81	/* number 1, critical */

struct geneve {
	u8 version_length;
	u8 flags;
	__be16 protocol;
	__be32 vni;		/* in the upper three bytes */
};

struct geneve_option {
	__be16 class;
	u8 type;
	u8 length;		/* of what follows, in units of 4 bytes; the rest of the byte is to be ignored */
};

struct geneve_dsr4 {
	struct geneve_option head;
	__be32 addr;
	__be16 port;
	u16 pad;
};

struct geneve_dsr6 {
	struct geneve_option head;
	struct addr addr;
	__be16 port;
	u16 pad;
};

union geneve_dsr {
	struct geneve_option head;
	struct geneve_dsr4 four;
	struct geneve_dsr6 six;
};

/* Between the outer network header and the frame, but for options. */
struct geneve_outer {
	struct udphdr udp;
	struct geneve geneve;
};

static __always_inline u32 geneve_option_size(const bool v6)
{
	return v6 ? sizeof(struct geneve_dsr6) : sizeof(struct geneve_dsr4);
}

/* By how much a packet grows with an option of `option` bytes. */
static __always_inline u32 geneve_growth(const bool v6, const u32 option)
{
	return (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + sizeof(struct geneve_outer) + option + ETH_HLEN;
}

/* The option that says what the client has asked for. */
static __always_inline void geneve_option_write(union geneve_dsr *option, const struct packet *p, const bool v6)
{
	option->head.class = bpf_htons(GENEVE_DSR_CLASS);
	option->head.type = GENEVE_DSR_TYPE;
	option->head.length = (geneve_option_size(v6) - sizeof(option->head)) / 4;
	if (v6) {
		option->six.addr = p->daddr;
		option->six.port = p->dport;
		option->six.pad = 0;
	} else {
		option->four.addr = p->daddr.word[0];
		option->four.port = p->dport;
		option->four.pad = 0;
	}
}

/* The frontend that the option at `offset` names; false if it is another one. */
static __always_inline bool geneve_option_read(struct packet_ctx *ctx, u32 offset, struct addr *addr, __be16 *port,
					       const bool v6)
{
	union geneve_dsr option;

	if (ctx_load(ctx, offset, &option, geneve_option_size(v6)) ||
	    option.head.class != bpf_htons(GENEVE_DSR_CLASS) || option.head.type != GENEVE_DSR_TYPE ||
	    (option.head.length & GENEVE_OPTION_LENGTH_MASK) != (geneve_option_size(v6) - sizeof(option.head)) / 4)
		return false;
	__builtin_memset(addr, 0, sizeof(*addr));
	if (v6)
		*addr = option.six.addr;
	else
		addr->word[0] = option.four.addr;
	*port = v6 ? option.six.port : option.four.port;
	return true;
}

/* The headers before the frame. There is no checksum: what is inside has its own, and over IPv6, too, a tunnel may do
 * without (RFC 6935), as the one who takes this off does not ask for it.
 */
static __always_inline void geneve_write(struct geneve_outer *outer, u32 hash, u16 length, u32 identity,
					 const u32 option)
{
	outer->udp.source = bpf_htons((u16)(GENEVE_SOURCE_PORTS | hash));
	outer->udp.dest = bpf_htons(GENEVE_PORT);
	outer->udp.len = bpf_htons(length);
	outer->udp.check = 0;
	outer->geneve.version_length = option / 4;
	outer->geneve.flags = option ? GENEVE_CRITICAL : 0;
	outer->geneve.protocol = bpf_htons(GENEVE_ETHERNET);
	outer->geneve.vni = bpf_htonl(identity << 8);
}

#endif
