/** The stages in the order of a round: what is compared with each other stands next to each other. */
import type { Stage } from '../session.js'
import { chains } from './chains.js'
import { contenders } from './contenders.js'
import { contexts } from './contexts.js'
import { fanOuts } from './fan-outs.js'
import { floors } from './floors.js'
import { history } from './history.js'
import { http } from './http.js'
import { awaiting, idle } from './idle.js'
import { latency } from './latency.js'
import { batches, calls, failures, mixed, twoWorkers } from './loads.js'
import { relay } from './relay.js'

export const STAGES: readonly Stage[] = [
	floors,
	chains,
	fanOuts,
	...contenders,
	twoWorkers,
	history,
	relay,
	http,
	latency,
	batches,
	mixed,
	calls,
	failures,
	contexts,
	idle,
	awaiting,
]
