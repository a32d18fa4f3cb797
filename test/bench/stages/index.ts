/** The stages in the order of a round: what is compared with each other stands next to each other. */
import type { Stage } from '../session.js'
import { chains } from './chains.js'
import { contenders } from './contenders.js'
import { fanOuts } from './fan-outs.js'
import { floors } from './floors.js'
import { latency } from './latency.js'
import { relay } from './relay.js'

export const STAGES: readonly Stage[] = [floors, chains, fanOuts, ...contenders, latency, relay]
