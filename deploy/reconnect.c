/* SPDX-License-Identifier: Apache-2.0 */
#include "deploy/reconnect.h"

#define FIRST_PAUSE_NS 100000000ull
#define LAST_PAUSE_NS  5000000000ull
#define NS_PER_S       1000000000ull
#define AGREE_LIMIT_NS 30000000000ull

void hf_reconnect_begin(struct hf_reconnect *reconnect, uint64_t now_ns, uint32_t limit_s)
{
	if (reconnect->deadline_ns)
		return;
	reconnect->next_ns = now_ns;
	reconnect->pause_ns = FIRST_PAUSE_NS;
	reconnect->deadline_ns = now_ns + limit_s * NS_PER_S;
}

bool hf_reconnect_due(const struct hf_reconnect *reconnect, uint64_t now_ns)
{
	return reconnect->deadline_ns && !reconnect->held && now_ns >= reconnect->next_ns &&
	       now_ns < reconnect->deadline_ns;
}

void hf_reconnect_failed(struct hf_reconnect *reconnect, uint64_t now_ns)
{
	reconnect->next_ns = now_ns + reconnect->pause_ns;
	reconnect->pause_ns *= 2;
	if (reconnect->pause_ns > LAST_PAUSE_NS)
		reconnect->pause_ns = LAST_PAUSE_NS;
}

bool hf_reconnect_over(const struct hf_reconnect *reconnect, uint64_t now_ns)
{
	return reconnect->deadline_ns && now_ns >= reconnect->deadline_ns;
}

void hf_reconnect_end(struct hf_reconnect *reconnect)
{
	*reconnect = (struct hf_reconnect){0};
}

bool hf_reconnect_silent(struct hf_reconnect *reconnect, bool agreeing, uint64_t now_ns)
{
	if (!agreeing) {
		reconnect->agree_by_ns = 0;
		return false;
	}
	if (!reconnect->agree_by_ns)
		reconnect->agree_by_ns = now_ns + AGREE_LIMIT_NS;
	return now_ns >= reconnect->agree_by_ns;
}

uint64_t hf_reconnect_wake_ns(const struct hf_reconnect *reconnect)
{
	if (reconnect->agree_by_ns)
		return reconnect->agree_by_ns;
	if (!reconnect->deadline_ns || reconnect->held)
		return reconnect->deadline_ns;
	return reconnect->next_ns < reconnect->deadline_ns ? reconnect->next_ns : reconnect->deadline_ns;
}
