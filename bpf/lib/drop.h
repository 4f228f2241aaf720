/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Drop reasons with Cilium's numbers, and where in our sources a drop was decided. */
#ifndef CPLANE_DROP_H
#define CPLANE_DROP_H

#define REASON_INVALID_SOURCE_IP 132
#define REASON_POLICY_DENIED 133
#define REASON_INVALID_PACKET 134
#define REASON_CT_INVALID_HEADER 135
#define REASON_CT_UNKNOWN_L4 137
#define REASON_UNSUPPORTED_L3 139
#define REASON_WRITE_ERROR 141
#define REASON_CSUM_L4 154
#define REASON_CT_MAP_INSERTION_FAILED 155
#define REASON_INVALID_IPV6_EXTENSION 156
#define REASON_FRAGMENT_NOT_SUPPORTED 157
#define REASON_NO_BACKEND 158
#define REASON_UNSUPPORTED_L2 166
#define REASON_NAT_NO_MAPPING 167
#define REASON_NAT_UNSUPPORTED_PROTOCOL 168
#define REASON_FIB_LOOKUP_FAILED 169
#define REASON_SOURCE_RANGE 177
#define REASON_SOCKET_LOOKUP_FAILED 178
#define REASON_SOCKET_ASSIGN_FAILED 179
#define REASON_PROXY_REDIRECTION_NOT_SUPPORTED 180
#define REASON_POLICY_DENY 181
#define REASON_AUTH_REQUIRED 189
#define REASON_TTL_EXCEEDED 196
#define REASON_ENDPOINT_NOT_READY 203

/* Source files as Cilium numbers them, so that a drop's file and line read the same in any Hubble. */
#define FILE_HOST 1
#define FILE_LXC 2
#define FILE_ICMP6 103
#define FILE_NODEPORT 104
#define FILE_IPV4 107
#define FILE_CONNTRACK 108
#define FILE_LOCAL_DELIVERY 109
#define FILE_IPV6 114
#define FILE_PROXY 120	/* of ours alone */

/* A drop travels upward as one negative number: reason, line and file. Below 2^31, as files end at 127. */
#define DROP_REASON(reason, file) (-(s32)((reason) | (u32)__LINE__ << 8 | (u32)(file) << 24))
#define DROP(name, file) DROP_REASON(REASON_##name, FILE_##file)

static __always_inline u8 drop_reason(s32 ret)
{
	return (u32)-ret & 0xff;
}

static __always_inline u16 drop_line(s32 ret)
{
	return (u32)-ret >> 8 & 0xffff;
}

static __always_inline u8 drop_file(s32 ret)
{
	return (u32)-ret >> 24;
}

#endif
