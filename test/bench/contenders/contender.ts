/** What the engine is compared with: each in a real process of its own, set as its documentation advises. */
import type { Watched } from '../costs.js'
import type { Engine } from '../in-flight.js'
import type { Lab } from '../lab.js'

export interface Contender {
	/** As on the command line. */
	readonly id: string
	/** With its version. */
	readonly name: string
	readonly chain: Workload
	readonly fanOut: Workload
	start(lab: Lab): Promise<RunningContender>
}

export interface Workload {
	readonly workload: string
	/** That a run of it executes, as this system counts them. */
	readonly nodes: number
}

export interface RunningContender extends Engine {
	readonly watched: Watched
	stop(): Promise<void>
}
