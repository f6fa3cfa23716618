/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_vm.h - a VMM without a VM, for tests of the VM adapter: a process that speaks QMP by a script.
 *
 * Purpose: keeps a run state and a migration state as QEMU does, sends and takes device state over unix
 * sockets, and misbehaves where it is told to. It is a process of its own, so that it can die.
 * Ownership: fake_vm_start()/fake_vm_stop(). Start it while no other thread runs.
 * Threads: the child has the QMP server's thread and one for a stream.
 * Units: bytes. Errors: asserted.
 */
#ifndef HF_TESTS_UNIT_KVM_FAKE_VM_H
#define HF_TESTS_UNIT_KVM_FAKE_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* bytes/s; `migrate` is refused until it is 0, so that nothing else can be sent at that rate */
#define FAKE_VM_MAX_BANDWIDTH 134217728

struct fake_vm_script {
	const char *socket_path;
	const char *status;	/* run state at the start; NULL: "running" */
	size_t state_bytes;	/* of the device state it sends, or expects; bytes are fake_vm_state_byte() */
	const char *count_from; /* commands are counted from the first of this name on; NULL: all */
	int die_at_command;	/* exits instead of answering its nth command; 0: never */
	size_t die_after_bytes; /* exits in the stream; 0: never */
	int silent_from_command;	    /* from its nth command on it answers nothing; 0: never */
	const char *refuse;		    /* answers this command with the error "scripted refusal" */
	int refusals;			    /* ... so often; 0: always */
	bool runs_and_stops_before_refusal; /* ... of `cont` */
	const char *migration_error;	    /* the migration fails with this error-desc... */
	bool fails_unconnected;		    /* ... before it connects */
	bool no_events;
	bool no_capability_commands;
	bool no_ignore_shared;	       /* `migrate` is refused while the VM runs, as by what is no QEMU */
	bool starts_itself;	       /* when it has loaded, unless a `stop` came before */
	bool silent_migration;	       /* query-migrate says nothing of an incoming migration */
	bool takes_half;	       /* LOAD: closes after half of the state and says completed */
	bool never_completes;	       /* LOAD */
	bool exits_on_error;	       /* LOAD: ends when it fails, and knows no other way */
	int log_fd;		       /* its standard error; 0: that of the test */
	const char *last_words;	       /* written there when LOAD fails */
	const char *version;	       /* answers query-version, as JSON; NULL: does not know it */
	const char *settles;	       /* run state that the one at the start becomes, after slow_queries */
	int slow_queries;	       /* a state asked for changes only at the nth question */
	const char *status_after_cont; /* NULL: "running" */
	const char *vcpus;	       /* answers, as JSON; NULL: a usual one */
	const char *memory_backends;
	const char *blocked_reason; /* query-migrate: it cannot be migrated */
	const char *peripherals;    /* qom-list of /machine/peripheral; NULL: it has no such container */
	const char *objects;	    /* qom-list of /objects */
	const char *networks;	    /* human-monitor-command */
	const char *block_nodes;    /* query-named-block-nodes */
	const char *memory_map;	    /* `info mtree -f` */
	/* x-query-virtio, and of every device -status, -queue-status and -vhost-queue-status; lists by
	 * number. */
	const char *virtio, *virtio_status, *virtio_queues, *vhost_queues;
	bool stops_at_map; /* somebody stops it when it is asked for that */
	bool
	    locks_while_it_saves; /* `migrate_cancel` and `qom-list` are answered when the state is written */
	/* What says peripherals to block_nodes, and memory_backends, from `migrate` on... */
	const struct fake_vm_script *plugged;
	const struct fake_vm_script *opened; /* ... and from when the state is saved */
};

struct fake_vm {
	pid_t pid;
	_Atomic bool *has_run; /* shared with it: it has run since it was stopped or loaded */
};

static inline uint8_t fake_vm_state_byte(size_t at)
{
	return (uint8_t)(at ^ at >> 8 ^ at >> 16);
}

void fake_vm_start(struct fake_vm *vm, const struct fake_vm_script *script);
/* A `cont` was done, or it ran by itself, as far as a frozen or dead one got. */
bool fake_vm_has_run(const struct fake_vm *vm);
/* Kills it, if it still lives, and waits for its end. */
void fake_vm_stop(struct fake_vm *vm);

#endif
