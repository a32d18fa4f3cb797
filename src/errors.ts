/**
 * Errors of the use cases, grouped by what the caller must do. Outcomes that a caller expects are values, not errors;
 * these are for input that must be corrected. Anything else that is thrown is a surprise: retry it if
 * `classifyDatabaseError` says `unavailable`, report it otherwise.
 */

/** One fault of an input: where it is, in JSON-pointer form (`/nodes/3/id`), and what is wrong with it. */
export interface Fault {
	readonly path: string
	readonly message: string
}

/** The caller's input is at fault; nothing was changed. Ask again only with other input. */
export class InvalidInputError extends Error {
	/** Every fault that was found. */
	readonly faults: readonly Fault[]

	constructor(message: string, faults: readonly Fault[]) {
		super(
			faults.length === 0
				? message
				: `${message}: ${faults.map((fault) => `${fault.path || '/'} ${fault.message}`).join('; ')}`,
		)
		this.name = 'InvalidInputError'
		this.faults = faults
	}
}

/** What was asked for does not exist. */
export class NotFoundError extends Error {
	constructor(message: string) {
		super(message)
		this.name = 'NotFoundError'
	}
}

/** What was asked for is over and does not come back; nothing was changed. */
export class GoneError extends Error {
	constructor(message: string) {
		super(message)
		this.name = 'GoneError'
	}
}

/** What was asked for contradicts what is stored; nothing was changed. */
export class ConflictError extends Error {
	constructor(message: string) {
		super(message)
		this.name = 'ConflictError'
	}
}
