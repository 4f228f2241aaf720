/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bcc reads this file before any program. The programs need nothing of a kernel's configuration. */
