/**
 * Wakes an idle relay through Postgres: whoever adds to the outbox notifies it, but only while it sleeps
 * (`src/db/sql/15_ring.sql`). Needs no Redis. Of several idle relays one sleeps under the alarm, the others go on looking.
 *
 * Both the lock and the subscription belong to a session, so this has a connection of its own, and that must not lead
 * through a pooler that shares sessions between clients.
 */
import postgres, { type Sql } from 'postgres'
import { withDeadline } from '../../src/db/errors.js'
import type { Logger } from '../../src/ports/logger.js'

export interface Alarm {
	/**
	 * True: whatever was added to the outbox before can be seen now, and whatever is added from now on wakes. False: it is
	 * not to be had now, since another relay has it, somebody is about to commit, or Postgres cannot be reached.
	 */
	arm(): Promise<boolean>
	/** Nobody notifies any more. */
	disarm(): Promise<void>
	close(): Promise<void>
}

export interface AlarmOptions {
	readonly databaseUrl: string
	/** Called for each commit that added to the outbox while the alarm was armed, and at times for nothing. */
	readonly onWake: () => void
	readonly logger: Logger
}

/** Both are matters of milliseconds; after this the relay goes on without. */
const DEADLINE_MS = 2_000
/** After a failure it is left alone for so long, in ms. */
const REST_AFTER_FAILURE_MS = 5_000

export function createAlarm({ databaseUrl, onWake, logger }: AlarmOptions): Alarm {
	let session: Sql | undefined
	let restsUntil = 0

	const open = (): Sql =>
		postgres(databaseUrl, {
			max: 1,
			prepare: false,
			fetch_types: false,
			idle_timeout: null,
			max_lifetime: null,
			connect_timeout: DEADLINE_MS / 1_000,
			onnotice: () => {},
			onnotify: onWake,
			connection: { application_name: 'flowcraft-relay-alarm', statement_timeout: DEADLINE_MS },
		} as unknown as postgres.Options<Record<string, never>>)

	/** A session that fails is ended, and its lock with it: who cannot be woken must not be notified. */
	async function run<T>(ask: (sql: Sql) => Promise<T>, otherwise: T): Promise<T> {
		if (performance.now() < restsUntil) return otherwise
		session ??= open()
		try {
			return await withDeadline('The alarm of the relay', DEADLINE_MS, ask(session))
		} catch (error) {
			logger.debug('The relay cannot be woken for now and looks by itself', { error })
			restsUntil = performance.now() + REST_AFTER_FAILURE_MS
			void end()
			return otherwise
		}
	}

	async function end(): Promise<void> {
		const ended = session
		session = undefined
		await ended?.end({ timeout: 1 }).catch(() => {})
	}

	return {
		arm: () =>
			run(async (sql) => {
				// The lock that `flowcraft_ring` asks for.
				const text = 'select pg_try_advisory_lock(7305512216841093236) as locked'
				const [row] = await sql.unsafe<{ locked: boolean }[]>(text)
				if (row?.locked !== true) return false
				// Who commits before this is seen by the next look at the outbox.
				await sql.unsafe('listen flowcraft_outbox')
				return true
			}, false),
		disarm: () =>
			run(async (sql) => {
				await sql.unsafe('unlisten flowcraft_outbox; select pg_advisory_unlock_all()').simple()
			}, undefined),
		close: end,
	}
}
