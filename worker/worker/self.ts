/** What the parts of a worker know of it; only the worker itself changes it. */
export interface Self {
	/** Its id in the registry, a new one whenever it begins again; '' before the first. */
	readonly workerId: string
	readonly isStopping: boolean
	/** How many take from the same queue, this one among them, as of the last heartbeat. */
	readonly workers: number
}
