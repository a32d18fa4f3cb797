/** Guards of the way from the outbox to a worker: relay, sweep, broker, deliveries. */
import type { Guard } from '../guard.js'

const RELAY = 'src/db/sql/70_relay.sql'
const SWEEP = 'src/db/sql/80_sweep.sql'
const OUTBOX_TESTS = 'test/engine/outbox.test.ts'
const SWEEP_TESTS = 'test/engine/sweep.test.ts'
const PUBLISHER = 'worker/broker/rabbitmq/publisher.ts'
const RABBITMQ_TESTS = 'test/broker/rabbitmq.test.ts'

export const deliveryGuards: readonly Guard[] = [
	{
		name: 'relay-skip-locked',
		keeps: 'relays wait for each other, and one that hangs stops them all',
		edits: [
			{
				file: RELAY,
				find: 'LIMIT p_limit\n\t\tFOR UPDATE SKIP LOCKED',
				replace: 'LIMIT p_limit\n\t\tFOR UPDATE',
			},
		],
		noticedBy: [[OUTBOX_TESTS, 'a relay does not wait for rows that another one is about to take']],
	},
	{
		name: 'relay-claimed-until',
		keeps: 'every relay publishes every row',
		edits: [
			{
				file: RELAY,
				find: 'AND (o.claimed_until IS NULL OR o.claimed_until < v_now)',
				replace: '',
			},
		],
		noticedBy: [
			[
				OUTBOX_TESTS,
				'of many relays that take at once, none gets a row that another one has, and none is left behind',
			],
		],
	},
	{
		name: 'relay-due',
		keeps: 'timers and retries are published at once',
		edits: [{ file: RELAY, find: ' AND o.due_at <= v_now\n', replace: '\n' }],
		noticedBy: [[OUTBOX_TESTS, 'a row is not taken before it is due']],
	},
	{
		name: 'events-have-their-own-way',
		keeps: "an exchange of the user's that is missing keeps jobs waiting",
		edits: [
			{ file: RELAY, find: "(o.kind = 'event') = p_events", replace: '(p_events OR NOT p_events)' },
		],
		noticedBy: [
			[
				'test/engine/business-events.test.ts',
				'an exchange that gives no verdict keeps the jobs waiting no longer than its own events',
			],
		],
	},
	{
		name: 'relay-settle-token',
		keeps: 'a relay that comes too late deletes a row which another one has in hand',
		edits: [
			{
				file: RELAY,
				find: 'WHERE ours.id = ANY (p_done) AND ours.claim_token = p_token',
				replace: 'WHERE ours.id = ANY (p_done)',
			},
		],
		noticedBy: [
			[OUTBOX_TESTS, 'a relay that comes too late settles nothing that another one has taken since'],
		],
	},
	{
		name: 'relay-settle-skip-locked',
		keeps: 'a relay and a cancel wait for each other for ever',
		edits: [
			{
				file: RELAY,
				find: 'ours.id = ANY (p_done) AND ours.claim_token = p_token FOR UPDATE SKIP LOCKED',
				replace: 'ours.id = ANY (p_done) AND ours.claim_token = p_token FOR UPDATE',
			},
		],
		noticedBy: [
			[
				OUTBOX_TESTS,
				'settling does not wait for a row that a cancel is about to delete, so that the two never deadlock',
			],
		],
	},
	{
		name: 'relay-deletes-only-confirmed',
		keeps: 'a message that the broker did not take is forgotten',
		edits: [
			{
				file: 'worker/relay/publication.ts',
				find: "if (outcome?.status === 'confirmed') {",
				replace: 'if (outcome?.status !== undefined) {',
			},
		],
		noticedBy: [
			[
				'test/engine/relay.test.ts',
				'keeps what the broker did not confirm, and publishes it again later',
			],
		],
	},
	{
		name: 'relay-stop-publishes',
		keeps: 'what a relay has taken when it stops waits for the end of its claim',
		edits: [
			{
				file: 'worker/relay/pipeline.ts',
				find: 'if (last !== undefined) await deliver(last).catch(() => {})',
				replace: '',
			},
		],
		noticedBy: [
			['test/engine/relay.test.ts', 'that stops publishes what it has taken, and takes no more'],
		],
	},
	{
		name: 'ring-only-sleepers',
		keeps: 'every commit notifies, and waits for every other',
		edits: [
			{
				file: 'src/db/sql/15_ring.sql',
				find: 'RETURN NOT pg_try_advisory_xact_lock_shared(7305512216841093236);',
				replace: 'RETURN true;',
			},
		],
		noticedBy: [['test/engine/alarm.test.ts', 'while no relay sleeps nobody notifies']],
	},
	{
		name: 'alarm-after-writers',
		keeps: 'a relay falls asleep over a start that is about to commit',
		edits: [
			{
				file: 'src/db/sql/15_ring.sql',
				find: 'pg_try_advisory_xact_lock_shared(7305512216841093236)',
				replace:
					"(SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'))",
			},
		],
		noticedBy: [
			[
				'test/engine/alarm.test.ts',
				'who begins to write before the alarm is armed cannot be missed: it is not armed until he has committed',
			],
		],
	},
	{
		name: 'notice-fits',
		keeps: 'a start with long ids fails while a relay sleeps',
		edits: [
			{
				file: 'src/db/sql/30_start_run.sql',
				find: 'IF octet_length(v_notice) > 7900 THEN',
				replace: 'IF false THEN',
			},
		],
		noticedBy: [['test/engine/alarm.test.ts', 'may have ids that no notification could hold']],
	},
	{
		name: 'notice-takes',
		keeps: 'a run stands still that is paused and unpaused while its start is published',
		edits: [
			{
				file: 'src/db/sql/30_start_run.sql',
				find: "v_token, CASE WHEN v_token IS NOT NULL THEN v_now + interval '1 second' END",
				replace: 'NULL::uuid, NULL::timestamptz',
			},
		],
		noticedBy: [
			[
				'test/engine/alarm.test.ts',
				'is taken for that relay, and by another one a second later if it never answers',
			],
		],
	},
	{
		name: 'notice-for-whom',
		keeps: 'of several relays more than one publishes a start',
		edits: [
			{
				file: 'worker/relay/alarm.ts',
				find: 'if (notice.for !== pid) return',
				replace: '',
			},
		],
		noticedBy: [['test/engine/alarm.test.ts', 'one relay at a time sleeps under the alarm']],
	},
	{
		name: 'notice-once',
		keeps: 'thousands of starts in one transaction are published one by one',
		edits: [
			{
				file: 'src/db/sql/15_ring.sql',
				find: "current_setting('flowcraft.handed_over', true) = 'yes'",
				replace: 'false',
			},
		],
		noticedBy: [['test/engine/alarm.test.ts', 'has its rows taken for the relay once in a transaction']],
	},
	{
		name: 'notice-on-stop',
		keeps: 'starts wait for a second that a relay was brought while it stopped',
		edits: [
			{
				file: 'worker/relay/job-looks.ts',
				find: 'await delay(LAST_NOTICES_MS)',
				replace: '',
			},
		],
		noticedBy: [['test/engine/alarm.test.ts', 'is published by a relay that stops at that moment']],
	},
	{
		name: 'relay-without-broker',
		keeps: 'a relay without a broker sits on rows that another one could publish',
		edits: [
			{
				file: 'worker/relay/relay.ts',
				find: 'if (!broker.isConnected()) return { lane, token, rows: [], isFull: false }',
				replace: '',
			},
		],
		noticedBy: [['test/engine/relay.test.ts', 'takes nothing while it has no connection to the broker']],
	},
	{
		name: 'relay-looks-before-it-repeats',
		keeps: 'a row whose relay died is published again although a worker had its message',
		edits: [
			{
				file: 'worker/relay/publication.ts',
				find: "if (row.kind === 'job' && row.reclaimed && !WANTS_MESSAGE.has(row.nodeState ?? '')) {",
				replace: 'if (false as boolean) {',
			},
		],
		noticedBy: [
			[
				'test/engine/relay.test.ts',
				'does not publish again what a worker has had since its relay died',
			],
		],
	},
	{
		name: 'mandatory-flag',
		keeps: 'a message that no queue takes counts as published',
		edits: [{ file: PUBLISHER, find: 'mandatory: true,', replace: 'mandatory: false,' }],
		noticedBy: [
			[
				RABBITMQ_TESTS,
				'answers unroutable when the queue has been deleted, and declares it for the next message',
			],
		],
	},
	{
		name: 'persistent-flag',
		keeps: 'confirmed messages go with a restart of the broker',
		edits: [{ file: PUBLISHER, find: 'persistent: true,', replace: 'persistent: false,' }],
		noticedBy: [
			[RABBITMQ_TESTS, 'publishes persistent to an exchange of the user, to whatever is bound there'],
		],
	},
	{
		name: 'confirm-wait',
		keeps: 'a message counts as published before the broker says so',
		edits: [
			{
				file: PUBLISHER,
				find: '\t\tthis.#outstanding.add(item)\n',
				replace: "\t\tthis.#outstanding.add(item)\n\t\titem.settle({ status: 'confirmed' })\n",
			},
		],
		noticedBy: [
			[
				RABBITMQ_TESTS,
				'answers failed for what has no verdict when the connection is cut in mid-batch, and publishes on the next one',
			],
		],
	},
	{
		name: 'confirm-nack',
		keeps: 'a message that the broker refuses counts as published',
		edits: [
			{
				file: PUBLISHER,
				find: "item.settle(failed('refused by RabbitMQ (nack): the queue is full or has no leader'))",
				replace: "item.settle({ status: 'confirmed' })",
			},
		],
		noticedBy: [[RABBITMQ_TESTS, 'answers failed for what a full queue refuses']],
	},
	{
		name: 'prefetch-bound',
		keeps: 'one worker draws the whole queue into its memory',
		edits: [
			{
				file: 'worker/broker/rabbitmq/subscription.ts',
				find: 'await channel.prefetch(prefetch)',
				replace: 'await channel.prefetch(0)',
			},
		],
		noticedBy: [
			['test/broker/broker.test.ts', 'never leaves more deliveries unsettled than the prefetch'],
		],
	},
	{
		name: 'settled-once',
		keeps: 'a delivery that is settled twice closes the channel under all others',
		edits: [
			{
				file: 'worker/broker/rabbitmq/subscription.ts',
				find: '\t\t\tif (settled) return\n',
				replace: '',
			},
		],
		noticedBy: [[RABBITMQ_TESTS, 'keeps its channel when a delivery is settled twice']],
	},
	{
		name: 'ack-after-claim',
		keeps: 'a message is gone although nobody could claim its node',
		edits: [
			{
				file: 'worker/worker/worker.ts',
				find: 'outcome = await claimer.claim(key)',
				replace: 'delivery.ack()\n\t\t\toutcome = await claimer.claim(key)',
			},
		],
		noticedBy: [
			[
				'test/engine/delivery.test.ts',
				'keeps its message until its node is claimed, and gives it back if it cannot be',
			],
		],
	},
	{
		name: 'ack-before-execution',
		keeps: 'a node that runs for long holds its message, until the broker takes it and the channel away',
		edits: [
			{
				file: 'worker/worker/worker.ts',
				find: '\t\tdelivery.ack()\n',
				replace: '\t\tsetTimeout(() => delivery.ack(), 5_000)\n',
			},
		],
		noticedBy: [
			[
				'test/engine/delivery.test.ts',
				'acks its message as soon as the node is claimed, not when it has run',
			],
		],
	},
	{
		name: 'slots',
		keeps: 'a worker runs more nodes at once than it was told to',
		edits: [
			{
				file: 'worker/worker/slots.ts',
				find: 'if (this.#taken < concurrency) return this.#occupy({ delivery, key })',
				replace: 'if (this.#taken >= 0) return this.#occupy({ delivery, key })',
			},
			{
				file: 'worker/worker/worker.ts',
				find: 'prefetch: concurrency,',
				replace: 'prefetch: concurrency * 10,',
			},
		],
		noticedBy: [['test/engine/delivery.test.ts', 'never runs more nodes at once than it has slots']],
	},
	{
		name: 'saturation',
		keeps: 'deliveries wait behind long nodes although another worker is free',
		edits: [
			{
				file: 'worker/worker/slots.ts',
				find: 'this.#saturatedTimer ??= setTimeout(() => void this.#giveWay(), SATURATED_MS)',
				replace: '',
			},
		],
		noticedBy: [
			[
				'test/engine/delivery.test.ts',
				'gives back what it has no slot for, and another worker runs it',
			],
		],
	},
	{
		name: 'claim-asked-again',
		keeps: 'a node whose claim was not answered stands still until it is given back',
		edits: [
			{
				file: 'worker/worker/claims.ts',
				find: "await whileUnavailable('A claim', askOnce, { maxMs: leaseMs, deadlineMs })",
				replace: 'await askOnce()',
			},
		],
		noticedBy: [
			[
				'test/faults/postgres.test.ts',
				'the answer to a claim lost: asked again, it is the same claim, and the node runs once',
			],
		],
	},
	{
		name: 'claim-doubt',
		keeps: 'a node whose claim came through beside its repetition stands still for most of a minute',
		edits: [
			{
				file: 'worker/worker/claims.ts',
				find: "if (asks > 1) doubt(batch.filter((_, position) => outcomes[position]?.status !== 'claimed'))",
				replace: '',
			},
		],
		noticedBy: [
			[
				'test/engine/execution.test.ts',
				'is still under way when it asks again gives back what it does not know that it has',
			],
		],
	},
	{
		name: 'claim-doubt-at-stop',
		keeps: 'a claim that a stopping worker has not been told of counts as a crash of its node',
		edits: [
			{
				file: 'worker/worker/claims.ts',
				find: '\t\t\tdoubt(batch)\n\t\t\tthrow error',
				replace: '\t\t\tthrow error',
			},
		],
		noticedBy: [
			[
				'test/engine/execution.test.ts',
				'was not answered when it is told to stop gives the node back, and counts no crash',
			],
		],
	},
	{
		name: 'release-asked-again',
		keeps: 'a node that could not be given back stands still for most of a minute',
		edits: [
			{
				file: 'worker/worker/own-claims.ts',
				find: "await whileUnavailable('A release', () => releaseNodes(db, claims, unrunnable))",
				replace: 'await releaseNodes(db, claims, unrunnable)',
			},
		],
		noticedBy: [
			[
				'test/engine/execution.test.ts',
				'that could not run a node, and could not say so, gives it back as soon as Postgres answers',
			],
		],
	},
	{
		name: 'whole-answers',
		keeps: 'the answer after one that broke off is misread, and a node fails for it',
		edits: [
			{
				file: 'src/db/query.ts',
				find: 'if (row !== undefined) rows.push(row)',
				replace: 'rows.push(row)',
			},
		],
		noticedBy: [
			[
				'test/functions/renewing-pool.test.ts',
				'an answer that broke off with its connection leaves nothing in the next one',
			],
		],
	},
	{
		name: 'forgotten-claims',
		keeps: 'a node whose claim was never answered stands still as long as its worker lives',
		edits: [
			{
				file: 'worker/worker/worker.ts',
				find: 'poll(FORGOTTEN_POLL_MS, ownClaims.giveBackForgotten)',
				replace: 'poll(FORGOTTEN_POLL_MS, async () => {})',
			},
		],
		noticedBy: [
			[
				'test/engine/execution.test.ts',
				'gives back a node that it has claimed without ever learning of it',
			],
		],
	},
	{
		name: 'sweep-after-outage',
		keeps: 'every living worker is declared dead as soon as Postgres is back from an outage',
		edits: [
			{
				file: 'src/db/sql/80_sweep.sql',
				find: 'v_reached_at timestamptz := greatest(pg_postmaster_start_time(), p_reached_at);',
				replace: 'v_reached_at timestamptz := p_reached_at;',
			},
		],
		noticedBy: [
			[
				'test/engine/sweep.test.ts',
				'one that was silent because Postgres was down is dead only when it is silent for a lease afterwards',
			],
		],
	},
	{
		name: 'sweep-after-partition',
		keeps: 'every living worker is declared dead as soon as Postgres can be reached again',
		edits: [
			{
				file: 'worker/relay/sweep.ts',
				find: 'reachedAt = now',
				replace: 'void now',
			},
		],
		noticedBy: [
			[
				'test/engine/relay.test.ts',
				'that was cut off from Postgres itself takes nobody for dead who was silent meanwhile, until a lease later',
			],
		],
	},
	{
		name: 'heartbeat-connects-anew',
		keeps: 'the heartbeat comes back so long after an outage that its worker is declared dead',
		edits: [
			{
				file: 'worker/worker/heartbeat-thread.js',
				find: 'if (asked !== sql) return',
				replace: 'return',
			},
		],
		noticedBy: [
			[
				'test/engine/heartbeat.test.ts',
				'tries to connect with each beat, after a long outage as after a short one',
			],
		],
	},
	{
		name: 'sweep-same-place',
		keeps: 'a node is taken from the living worker that has claimed it while the sweep was looking',
		edits: [
			{
				file: 'src/db/sql/80_sweep.sql',
				find: 'SELECT n.ctid AS place, n.worker_id, s.blueprint_id',
				replace: 'SELECT n.run_id, n.node_id, n.generation, n.recovers, n.worker_id, s.blueprint_id',
			},
			{
				file: 'src/db/sql/80_sweep.sql',
				find: "WHERE n.ctid = h.place AND n.state || '' = 'running' AND n.worker_id = h.worker_id",
				replace:
					'WHERE (n.run_id, n.node_id, n.generation, n.recovers) = (h.run_id, h.node_id, h.generation, h.recovers)',
			},
		],
		noticedBy: [['test/engine/sweep.test.ts', 'looked at it is not taken from the living']],
	},
	{
		name: 'reconcile-same-worker',
		keeps: 'a node is taken from the living worker that has claimed it while a run was being reconciled',
		edits: [
			{
				file: 'src/db/sql/81_reconcile_run.sql',
				find: "AND n.state = 'running' AND n.worker_id = h.worker_id",
				replace: "AND n.state = 'running'",
			},
		],
		noticedBy: [['test/engine/sweep.test.ts', 'looked at it is not taken from the living']],
	},
	{
		name: 'sweep-only-dead-workers',
		keeps: 'a node is taken from a living worker',
		edits: [
			{
				file: SWEEP,
				find: "WHERE n.state = 'running' AND s.finished_at IS NULL\n\t\t\tAND (w.worker_id IS NULL OR w.dead_at IS NOT NULL OR w.stopped_at IS NOT NULL)",
				replace: "WHERE n.state = 'running' AND s.finished_at IS NULL",
			},
		],
		noticedBy: [[SWEEP_TESTS, 'a living worker is never robbed of one']],
	},
	{
		name: 'sweep-grace',
		keeps: 'a message that is on its way counts as lost',
		edits: [
			{
				file: SWEEP,
				find: "n.state = 'ready' AND n.emitted_at < v_now - v_grace\n\t\t\tAND n.emitted_at < v_now - v_grace * (2 ^ least(n.reemits, 6))",
				replace: "n.state = 'ready'",
			},
		],
		noticedBy: [
			[
				SWEEP_TESTS,
				'a ready node whose message was lost is emitted again after its grace, and not before',
			],
		],
	},
	{
		name: 'sweep-growing-grace',
		keeps: 'a node that nobody takes is emitted at the same pace for ever',
		edits: [
			{
				file: SWEEP,
				find: 'AND n.emitted_at < v_now - v_grace * (2 ^ least(n.reemits, 6))',
				replace: '',
			},
		],
		noticedBy: [[SWEEP_TESTS, 'each emission doubles the grace of the next, up to 64 times']],
	},
	{
		name: 'sweep-outbox-row',
		keeps: 'a message that still waits in the outbox is added once more',
		edits: [
			{
				file: SWEEP,
				find: 'AND n.emitted_at < v_passed - v_grace\n\t\t\tAND NOT EXISTS (',
				replace: 'AND n.emitted_at < v_passed - v_grace\n\t\t\tAND (true OR NOT EXISTS (',
			},
			{
				file: SWEEP,
				find: 'OFFSET 0\n\t\t\t)\n\t\tORDER BY n.emitted_at',
				replace: 'OFFSET 0\n\t\t\t))\n\t\tORDER BY n.emitted_at',
			},
		],
		noticedBy: [[SWEEP_TESTS, 'a row in the outbox is no lost message, however old']],
	},
	{
		name: 'backlog-rule',
		keeps: 'a queue that takes an hour to work off is filled with repetitions',
		edits: [{ file: SWEEP, find: 'IF p_backlog THEN', replace: 'IF false THEN' }],
		noticedBy: [
			[SWEEP_TESTS, 'while messages wait in the broker, only what was passed by counts as lost'],
		],
	},
	{
		name: 'sweep-lost-messages',
		keeps: 'a node whose message is lost never runs',
		edits: [
			{
				file: 'worker/relay/sweep.ts',
				find: 'sweepLost(db, stalledMs, depth === undefined || depth > 0, MAX_ROWS)',
				replace: 'Promise.resolve(0)',
			},
		],
		noticedBy: [['test/engine/relay.test.ts', 'emits again what the broker has lost']],
	},
	{
		name: 'sweep-unknown-depth',
		keeps: 'messages count as lost because the broker could not be asked how many it has',
		edits: [
			{
				file: 'worker/relay/sweep.ts',
				find: 'depth === undefined || depth > 0',
				replace: 'depth !== undefined && depth > 0',
			},
		],
		noticedBy: [
			['test/engine/relay.test.ts', 'takes no message for lost while the broker cannot be asked'],
		],
	},
	{
		name: 'too-many-crashes',
		keeps: 'a node that kills its workers kills all of them',
		edits: [
			{
				file: 'worker/execution/run-node.ts',
				find: 'if (claimed.crashes > MAX_CRASHES)',
				replace: 'if (claimed.crashes > 1_000_000)',
			},
		],
		noticedBy: [
			['test/engine/execution.test.ts', 'does not run a node that has killed too many workers'],
		],
	},
]
