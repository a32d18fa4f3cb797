/**
 * `flowcraft-outbox/client`: starts, watches and steers runs over HTTP. Needs `fetch` and nothing else: browsers, edge
 * hosts, Node, Deno and Bun.
 */
export {
	type BlueprintClient,
	type CallOptions,
	type Client,
	type ClientOptions,
	createClient,
	type EventsOptions,
	type ListOptions,
	type NodesOptions,
	type ResumeOptions,
	type StartOptions,
	type WaitOptions,
} from './client.js'
export {
	type BlueprintLike,
	type BlueprintRef,
	type ContextOf,
	type DefinedBlueprint,
	defineBlueprint,
	type InputOf,
	type NodeIdOf,
} from './blueprint.js'
export type * from './answers.js'
export {
	ClientError,
	ConflictError,
	ConnectionError,
	ForbiddenError,
	InvalidRequestError,
	NotFoundError,
	type Problem,
	ProblemError,
	type ProblemFault,
	RateLimitedError,
	UnauthorizedError,
	UnavailableError,
	UnexpectedAnswerError,
} from './errors.js'
export type { Paged } from './paged.js'
export type { RetryOptions } from './transport.js'
