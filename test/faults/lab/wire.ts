/**
 * Moments, as bytes that go by on a road: what a process sends when it is between two steps.
 *
 * The driver sends the text of a prepared statement once per connection, so a statement's name marks a process's first
 * call on a fresh road; later calls, and all calls of one node, are known by the values in them (a run's id, the output
 * `<seed>:<node>`).
 */

/** The worker's first claim: to Postgres. */
export const CLAIM = 'flowcraft_claim('
/** The relay's first word on what became of its messages: to Postgres. */
export const SETTLE = 'flowcraft_settle_outbox('
/** AMQP method frames: the payload's size, class 60 (basic), method 80 (ack). The same in both directions. */
export const ACK = Buffer.from([0, 0, 0, 13, 0, 60, 0, 80])
/** Class 60, method 40: a publication, to RabbitMQ. */
export const PUBLISH = Buffer.from([0, 60, 0, 40])

/** The commit of a node of a run with this seed: to Postgres. */
export const outputOf = (seed: string, nodeId: string): string => `${seed}:${nodeId}`
