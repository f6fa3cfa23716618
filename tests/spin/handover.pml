/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hand-over of a VM, for SPIN. The tables are not written here: handover_promela prints them from
 * core/handover.c, so what is checked is what the engines act on. Only what stands around the tables is modelled by
 * hand: two agents, two VMMs, a guardian, a link, two records, and what goes wrong.
 *
 * Every order of all that may happen is walked, with at most FAULTS faults in a run, of any kind (`fault`) and in
 * any combination. One process does everything, one step at a time: who is next is the choice.
 *
 * What is taken for granted:
 * - an event is handled as a whole; its actions follow one after the other, each a step, before the next event of
 *   that side; a crash may come between any two;
 * - what an action starts (fence, record, run, kill, resume) ends later, as an event of its own; an agent that ends
 *   meanwhile leaves it done or not done, and a `cont` of the dead agent may still be done much later;
 * - a write that fails, or is cut short, leaves the old record or the new one;
 * - a cut link may lose all that is on its way, or only what is behind some message; a side notices at its own time;
 *   a new link comes when both have noticed, and carries nothing of the old one;
 * - the fence sees that the VM has run since it was saved, not only that it runs;
 * - a new agent, and the guardian, begin when the old process is gone.
 *
 * Safety is in the assertions at what they guard. Liveness: no run goes on forever (pan finds no cycle), and where
 * nothing is left to do, all is well (all_is_well). That needs no fairness but that what can happen does in the end.
 */
#ifndef FAULTS
#define FAULTS 4
#endif

/* messages */
#define LOADED 1
#define RUN 2
#define RESUMED 3
#define REFUSED 4
#define FAIL 5

/* a VMM */
#define STOPPED 0
#define RUNNING 1
#define FROZEN 2 /* source */
#define HALTED 3 /* destination: the VM has run, stopped by itself and refuses to go on */
#define GONE 4

/* asked of the destination's VMM */
#define NOTHING 0
#define LOAD 1
#define CONT 2
#define CONT_DONE 3
#define CONT_REFUSED 4

/* the operations of the agents are bits of a mask: the lowest is next */
#define NEXT(todo, action) ((todo & (action + action - 1)) == action)
/* of no consequence to others */
#define LOCAL (ACT_FAIL + ACT_ALARM)

/* No table may refuse what can happen. Without that rule a refused event changes nothing, as in the engines. */
#ifdef REFUSED_EVENTS_CHANGE_NOTHING
#define SOURCE_REFUSES_THE_EVENT false
#define DESTINATION_REFUSES_THE_EVENT false
#else
#define SOURCE_REFUSES_THE_EVENT true
#define DESTINATION_REFUSES_THE_EVENT true
#endif

#include "handover_tables.pml"

byte faults = FAULTS;

byte s_state = S_OWNS;
short s_todo;
byte s_record;		/* of the step being done */
byte s_writing;		/* asked for, not ended */
byte s_disk = R_NONE;
bool s_alive = true;
bool s_dead_for_good;	/* nobody starts the agent again */
bool s_fencing;
bool s_resuming;
byte s_vmm = STOPPED;
bool s_ran;		/* since it was saved: what the destination has is old */
bool s_other_cont = true; /* another client may still revive it, and stop it again */
bool guardian_acts;

byte d_state = D_LOADING;
short d_todo;
byte d_record;
byte d_writing;
byte d_disk = R_NONE;
bool d_alive = true;
bool d_killing;
byte d_op = LOAD;
bool d_orphan;		/* a `cont` that a dead agent had sent */
byte d_vmm = STOPPED;
bool d_ran;
bool d_end_told;
bool d_dead_for_good;
bool d_failed;		/* its VMM, or a write of RUNNING: else nothing may be LOST */

bool link = true;
bool s_link = true;	/* as the source sees it */
bool d_link = true;
bool s_link_news;
bool link_gone;		/* for good */
chan to_d = [3] of { byte };
chan to_s = [3] of { byte };

#define S_READY (s_alive && s_todo == 0)
#define D_READY (d_alive && d_todo == 0)
#ifdef ENDLESS_FAULTS
#define MORE_FAULTS false
#define fault true
#else
#define MORE_FAULTS (faults > 0)
#define fault MORE_FAULTS -> faults--
#endif

inline clear(channel)
{
	do
	:: nempty(channel) -> channel?_
	:: empty(channel) -> break
	od
}

inline s_say(message)
{
	if
	:: link && s_link -> assert(nfull(to_d)); to_d!message
	:: else -> skip
	fi
}

inline d_say(message)
{
	if
	:: link && d_link -> assert(nfull(to_s)); to_s!message
	:: else -> skip
	fi
}

inline source_runs()
{
	/* SAFETY */
	assert(d_vmm != RUNNING);	/* never both */
	assert(!d_ran);			/* nor one after the other */
	assert(s_disk != R_GIVEN_UP);	/* once given up, not without TAKEN_BACK */
	s_vmm = RUNNING;
	s_ran = true;
	s_other_cont = false
}

inline destination_runs()
{
	/* SAFETY */
	assert(s_vmm != RUNNING);	/* never both */
	assert(!s_ran);			/* nor what is old */
	assert(s_disk == R_GIVEN_UP);	/* not without its being given up */
	d_vmm = RUNNING;
	d_ran = true
}

/* What the fence found frozen and running, it has to thaw: that is the same as running, to all others. */
inline resumed()
{
	if
	:: s_vmm == STOPPED || s_vmm == FROZEN -> source_runs()
	:: else -> skip
	fi
}

#define SOURCE_HAS (s_state == S_ABORTED && (s_vmm == RUNNING || s_vmm == GONE))
#define DESTINATION_HAS (s_state == S_GONE && d_state == D_RUNNING && (d_vmm == RUNNING || d_vmm == HALTED))

/*
 * LIVENESS: one side runs the VM and both agents know it. What excuses, and nothing else does:
 * - LOST, of which there was an alarm: from RUNNING on, the VMM of the destination ended, refused, did not answer or
 *   could not be ended, or RUNNING could not be written;
 * - the VMM of the side that has the VM has ended by itself, or the guest has;
 * - an agent or the link stays dead. Then still: if the source did not give the VM up it runs there, or there was
 *   an alarm because neither GIVEN_UP nor TAKEN_BACK could be written.
 */
inline all_is_well()
{
	assert(d_state != D_LOST || d_failed);
	if
	:: s_dead_for_good || d_dead_for_good || link_gone ->
		assert(s_disk == R_GIVEN_UP || s_state == S_STUCK || s_vmm == RUNNING || s_vmm == GONE)
	:: else ->
		if
		:: d_state == D_LOST -> assert(s_state == S_GIVEN_UP || s_state == S_GONE)
		:: else -> assert((SOURCE_HAS && d_state == D_ABORTED) || DESTINATION_HAS)
		fi
	fi
}

active proctype world()
{
	do
	/* ---- the source's agent: what it was told ---- */
	:: d_step { S_READY && s_link_news -> s_link_news = false; source_link() }
	:: d_step { S_READY && s_link && !link -> s_link = false; s_link_news = false; clear(to_s); source_broken() }
	:: d_step { S_READY && s_link && !s_link_news && to_s?[LOADED] -> to_s?LOADED; source_heard_loaded() }
	:: d_step { S_READY && s_link && !s_link_news && to_s?[RESUMED] -> to_s?RESUMED; source_heard_resumed() }
	:: d_step { S_READY && s_link && !s_link_news && to_s?[REFUSED] -> to_s?REFUSED; source_heard_refused() }
	:: d_step { S_READY && s_link && !s_link_news && to_s?[FAIL] -> to_s?FAIL; source_broken() }
	/* a cancel, a failure of this host */
	:: d_step { S_READY && fault; source_broken() }

	/* ---- what it does ---- */
	:: d_step { s_alive && NEXT(s_todo, ACT_FENCE) -> s_todo = s_todo - ACT_FENCE; s_fencing = true }
	:: d_step { s_alive && NEXT(s_todo, ACT_RECORD) -> s_todo = s_todo - ACT_RECORD;
		assert(s_writing == R_NONE); s_writing = s_record; s_record = R_NONE }
	:: d_step { s_alive && NEXT(s_todo, ACT_RESUME) -> s_todo = s_todo - ACT_RESUME; s_resuming = true }
	:: d_step { s_alive && NEXT(s_todo, ACT_SAY_RUN) -> s_todo = s_todo - ACT_SAY_RUN; s_say(RUN) }
	:: d_step { s_alive && NEXT(s_todo, ACT_SAY_FAIL) -> s_todo = s_todo - ACT_SAY_FAIL; s_say(FAIL) }
	:: d_step { s_alive && s_todo != 0 && (s_todo & LOCAL) == s_todo -> s_todo = 0 }

	/* ---- what comes of it ---- */
	:: d_step { S_READY && s_fencing && s_vmm == STOPPED && !s_ran ->
		s_fencing = false; s_vmm = FROZEN; source_fenced() }
	:: d_step { S_READY && s_fencing && (s_ran || s_vmm == GONE) -> s_fencing = false; source_fence_failed() }
	:: d_step { S_READY && s_fencing && fault; s_fencing = false; source_fence_failed() }
	:: d_step { S_READY && s_writing != R_NONE -> s_disk = s_writing; s_writing = R_NONE; source_recorded() }
	:: d_step { S_READY && s_writing != R_NONE && fault; s_writing = R_NONE; source_record_failed() }
	:: d_step { S_READY && s_writing != R_NONE && fault; s_disk = s_writing; s_writing = R_NONE;
		source_record_failed() }
	:: d_step { s_alive && s_resuming -> s_resuming = false; resumed() }

	/* ---- its end, and who comes after it ---- */
	:: atomic { s_alive && fault;
		s_alive = false; s_todo = 0; s_record = R_NONE; link = false; s_link = false; s_link_news = false;
		clear(to_s);
		if
		:: s_writing != R_NONE -> s_disk = s_writing
		:: true
		fi;
		if
		:: s_fencing && s_vmm == STOPPED -> s_vmm = FROZEN
		:: true
		fi;
		if
		:: s_resuming -> resumed()
		:: true
		fi;
		d_step { s_writing = R_NONE; s_fencing = false; s_resuming = false; s_state = S_OWNS } }
	:: d_step { !s_alive && !s_dead_for_good -> s_alive = true; source_restart() }
	:: d_step { !s_alive && !s_dead_for_good && fault; s_dead_for_good = true }
	:: d_step { !s_alive && !guardian_acts && s_disk != R_GIVEN_UP && (s_vmm == STOPPED || s_vmm == FROZEN) ->
		guardian_acts = true }
	:: d_step { guardian_acts -> guardian_acts = false; resumed() }

	/* ---- the source's VMM ---- */
	:: d_step { s_vmm == STOPPED && s_other_cont -> source_runs() }
	:: d_step { s_vmm == RUNNING && s_alive && (s_state == S_OWNS || s_state == S_FENCING) -> s_vmm = STOPPED }
	:: d_step { s_vmm != GONE && fault; s_vmm = GONE }

	/* ---- the destination's agent: what it was told ---- */
	:: d_step { D_READY && d_link && !link -> d_link = false; clear(to_d); destination_broken() }
	:: d_step { D_READY && d_link && to_d?[RUN] -> to_d?RUN; destination_heard_run() }
	:: d_step { D_READY && d_link && to_d?[FAIL] -> to_d?FAIL; destination_heard_fail() }
	:: d_step { D_READY && fault; destination_broken() }
	:: d_step { D_READY && d_vmm == GONE && !d_end_told -> d_end_told = true; destination_vm_ended() }

	/* ---- what it does ---- */
	:: d_step { d_alive && NEXT(d_todo, ACT_RECORD) -> d_todo = d_todo - ACT_RECORD;
		assert(d_writing == R_NONE); d_writing = d_record; d_record = R_NONE }
	:: d_step { d_alive && NEXT(d_todo, ACT_RUN) -> d_todo = d_todo - ACT_RUN; assert(d_op == NOTHING); d_op = CONT }
	:: d_step { d_alive && NEXT(d_todo, ACT_KILL) -> d_todo = d_todo - ACT_KILL; d_killing = true }
	:: d_step { d_alive && NEXT(d_todo, ACT_SAY_LOADED) -> d_todo = d_todo - ACT_SAY_LOADED; d_say(LOADED) }
	:: d_step { d_alive && NEXT(d_todo, ACT_SAY_RESUMED) -> d_todo = d_todo - ACT_SAY_RESUMED; d_say(RESUMED) }
	:: d_step { d_alive && NEXT(d_todo, ACT_SAY_REFUSED) -> d_todo = d_todo - ACT_SAY_REFUSED; d_say(REFUSED) }
	:: d_step { d_alive && NEXT(d_todo, ACT_SAY_FAIL) -> d_todo = d_todo - ACT_SAY_FAIL; d_say(FAIL) }
	:: d_step { d_alive && d_todo != 0 && (d_todo & LOCAL) == d_todo -> d_todo = 0 }

	/* ---- what comes of it ---- */
	:: d_step { D_READY && d_op == LOAD && d_vmm == STOPPED -> d_op = NOTHING; destination_vm_loaded() }
	:: d_step { D_READY && d_op == LOAD && d_vmm == GONE -> d_op = NOTHING }
	:: d_step { D_READY && d_op == LOAD && fault; d_op = NOTHING; destination_broken() }
	:: d_step { D_READY && d_writing != R_NONE -> d_disk = d_writing; d_writing = R_NONE; destination_recorded() }
	:: d_step { D_READY && d_writing != R_NONE && fault; d_failed = d_failed || d_writing == R_RUNNING;
		d_writing = R_NONE; destination_record_failed() }
	:: d_step { D_READY && d_writing != R_NONE && fault; d_failed = d_failed || d_writing == R_RUNNING;
		d_disk = d_writing; d_writing = R_NONE; destination_record_failed() }
	/* A `cont` is done by the VMM, whoever has sent it; the answer comes later. */
	:: d_step { d_op == CONT && !d_orphan && d_vmm == STOPPED -> d_op = CONT_DONE; destination_runs() }
	:: d_step { d_op == CONT && !d_orphan && d_vmm == RUNNING -> d_op = CONT_DONE }
	:: d_step { d_op == CONT && !d_orphan && d_vmm == HALTED -> d_op = CONT_REFUSED }
	:: d_step { d_op == CONT && !d_orphan && d_vmm == STOPPED && fault; d_failed = true; d_op = CONT_REFUSED }
	:: d_step { d_orphan && d_vmm == STOPPED -> d_orphan = false; destination_runs() }
	:: d_step { d_orphan -> d_orphan = false }
	:: d_step { D_READY && d_op == CONT_DONE -> d_op = NOTHING; destination_vm_ran() }
	:: d_step { D_READY && d_op == CONT_REFUSED -> d_op = NOTHING; destination_vm_refused() }
	/* The VMM has ended, or does not answer: then it may yet do it. */
	:: d_step { D_READY && d_op >= CONT && d_vmm == GONE -> d_op = NOTHING; destination_vm_unknown() }
	:: d_step { D_READY && d_op == CONT && d_vmm != GONE && fault; d_failed = true; d_op = NOTHING; d_orphan = true;
		destination_vm_unknown() }
	:: d_step { D_READY && d_killing -> d_killing = false; d_vmm = GONE; d_orphan = false; destination_vm_killed() }
	:: d_step { D_READY && d_killing && d_vmm != GONE && fault; d_failed = true; d_killing = false; destination_kill_failed() }

	/* ---- its end, and who comes after it ---- */
	:: atomic { d_alive && fault;
		d_alive = false; d_todo = 0; d_record = R_NONE; link = false; d_link = false;
		clear(to_d);
		if
		:: d_writing != R_NONE -> d_disk = d_writing
		:: true
		fi;
		if
		:: d_killing -> d_vmm = GONE
		:: true
		fi;
		if
		:: d_op == CONT -> d_orphan = true
		:: true
		fi;
		d_step { d_writing = R_NONE; d_killing = false; d_op = NOTHING; d_end_told = false; d_state = D_LOADING;
			if
			:: d_vmm == GONE -> d_orphan = false
			:: else -> skip
			fi } }
	:: d_step { !d_alive && !d_dead_for_good && fault; d_dead_for_good = true }
	:: d_step { !d_alive && !d_dead_for_good -> d_alive = true; d_end_told = (d_vmm == GONE); destination_restart() }

	/* ---- the destination's VMM ---- */
	:: d_step { d_vmm != GONE && fault; d_failed = true; d_vmm = GONE; d_orphan = false }
	:: d_step { d_vmm == RUNNING && fault; d_failed = true; d_vmm = HALTED }

	/* ---- the link ---- */
	:: d_step { link && fault; link = false }
	:: d_step { !link && !link_gone && fault; link_gone = true }
	:: d_step { !link && !link_gone && !s_link && !d_link && s_alive && d_alive ->
		link = true; s_link = true; d_link = true; s_link_news = true }

	/* A person hears the alarm, and mends the disk first. */
	:: d_step { S_READY && s_state == S_STUCK && link && s_link && !s_link_news && !MORE_FAULTS -> link = false }

	/* Nothing more goes wrong; where nothing is left to do either, the run ends. */
#ifndef ENDLESS_FAULTS
	:: d_step { faults > 0 -> faults = 0 }
	:: timeout -> all_is_well(); break
#endif
	od
}
