/** Who sends a request, and what that allows. */

/**
 * - `read`: runs, blueprints, workers.
 * - `start`: start runs.
 * - `operate`: cancel and resume runs, send events.
 * - `admin`: register blueprints.
 *
 * No scope includes another.
 */
export const SCOPES = ['read', 'start', 'operate', 'admin'] as const
export type Scope = (typeof SCOPES)[number]

/** Whoever sent a request. */
export interface Caller {
	/** '' where nobody has to say who they are. Separates idempotency keys and rate limits. */
	readonly name: string
	readonly scopes: ReadonlySet<Scope>
}

/** Where anybody may do everything. */
export const ANYONE: Caller = { name: '', scopes: new Set(SCOPES) }

/** On operations that ask nobody. */
export const NOBODY: Caller = { name: '', scopes: new Set() }
