/**
 * The shape of the workflow, as data: what Postgres stores and every worker can run.
 *
 *     check_for_pii ─────────┐                 ┌─ action_ban ────────► ban_user_branch ─────┐
 *     check_for_hate_speech ─┼─► triage_post ──┼─ action_redact ─────► redact_post_branch ──┼─► final_log
 *     check_for_spam ────────┘    (all join)   ├─ action_delete_spam ► delete_spam_branch ──┤   (any join)
 *                                              └─ action_approve ────► approve_post_branch ─┘
 *
 * The first three branches are subflows; each leaves its summary in the parent's context as `moderation_result`,
 * as the fourth does itself. Change `VERSION` with any change to a shape: runs keep the one they began with.
 */
import type { NodeConfig, WorkflowBlueprint } from 'flowcraft'

const VERSION = '1.0.0'

/** A check may ask a language model, which may be slow, busy or down for a moment. */
const CHECK: NodeConfig = { maxRetries: 4, retryDelay: 1000, timeout: 30_000 }

export const contentModeration: WorkflowBlueprint = {
	id: 'content-moderation',
	metadata: {
		version: VERSION,
		description: 'Checks a post of a user and bans, redacts, deletes or approves.',
	},
	nodes: [
		{ id: 'check_for_pii', uses: 'moderation.check-for-pii', inputs: 'userPost', config: CHECK },
		{
			id: 'check_for_hate_speech',
			uses: 'moderation.check-for-hate-speech',
			inputs: 'userPost',
			config: CHECK,
		},
		{ id: 'check_for_spam', uses: 'moderation.check-for-spam', inputs: 'userPost', config: CHECK },
		{
			id: 'triage_post',
			uses: 'moderation.triage',
			inputs: { pii: 'check_for_pii', hateSpeech: 'check_for_hate_speech', spam: 'check_for_spam' },
			config: { joinStrategy: 'all' },
		},
		{
			id: 'ban_user_branch',
			uses: 'subflow',
			params: {
				blueprintId: 'moderation-ban-user',
				inputs: { userId: 'userId', hateSpeech: 'check_for_hate_speech' },
				outputs: { moderation_result: 'ban_summary' },
			},
		},
		{
			id: 'redact_post_branch',
			uses: 'subflow',
			params: {
				blueprintId: 'moderation-redact-post',
				// The findings go along: asked twice, a language model could answer twice.
				inputs: { userId: 'userId', userPost: 'userPost', pii: 'check_for_pii' },
				outputs: { moderation_result: 'redaction_summary' },
			},
		},
		{
			id: 'delete_spam_branch',
			uses: 'subflow',
			params: {
				blueprintId: 'moderation-delete-spam',
				inputs: { userId: 'userId', spam: 'check_for_spam' },
				outputs: { moderation_result: 'spam_deletion_summary' },
			},
		},
		{
			id: 'approve_post_branch',
			uses: 'moderation.approve-post',
			inputs: { hateSpeech: 'check_for_hate_speech' },
		},
		{
			id: 'final_log',
			uses: 'moderation.final-log',
			inputs: { result: 'moderation_result' },
			config: { joinStrategy: 'any' },
		},
	],
	edges: [
		{ source: 'check_for_pii', target: 'triage_post' },
		{ source: 'check_for_hate_speech', target: 'triage_post' },
		{ source: 'check_for_spam', target: 'triage_post' },
		{ source: 'triage_post', target: 'ban_user_branch', action: 'action_ban' },
		{ source: 'triage_post', target: 'redact_post_branch', action: 'action_redact' },
		{ source: 'triage_post', target: 'delete_spam_branch', action: 'action_delete_spam' },
		{ source: 'triage_post', target: 'approve_post_branch', action: 'action_approve' },
		{ source: 'ban_user_branch', target: 'final_log' },
		{ source: 'redact_post_branch', target: 'final_log' },
		{ source: 'delete_spam_branch', target: 'final_log' },
		{ source: 'approve_post_branch', target: 'final_log' },
	],
}

export const banUser: WorkflowBlueprint = {
	id: 'moderation-ban-user',
	metadata: { version: VERSION, description: 'Bans a user and records why.' },
	nodes: [
		{ id: 'api_call_ban_user', uses: 'moderation.ban-user', inputs: { userId: 'userId' } },
		{
			id: 'log_ban_event',
			uses: 'moderation.log-ban',
			inputs: { userId: 'userId', hateSpeech: 'hateSpeech' },
		},
		{
			id: 'output_ban_summary',
			uses: 'moderation.summarise-ban',
			inputs: { ban: 'api_call_ban_user', event: 'log_ban_event' },
			config: { joinStrategy: 'all' },
		},
	],
	edges: [
		{ source: 'api_call_ban_user', target: 'output_ban_summary' },
		{ source: 'log_ban_event', target: 'output_ban_summary' },
	],
}

export const redactPost: WorkflowBlueprint = {
	id: 'moderation-redact-post',
	metadata: { version: VERSION, description: 'Removes personal data from a post and warns its author.' },
	nodes: [
		{ id: 'redact_pii', uses: 'moderation.redact-pii', inputs: { userPost: 'userPost', pii: 'pii' } },
		{ id: 'generate_warning', uses: 'moderation.warn-about-pii', inputs: { userId: 'userId' } },
		{
			id: 'output_redaction_summary',
			uses: 'moderation.summarise-redaction',
			inputs: { redaction: 'redact_pii', warning: 'generate_warning' },
			config: { joinStrategy: 'all' },
		},
	],
	edges: [
		{ source: 'redact_pii', target: 'output_redaction_summary' },
		{ source: 'generate_warning', target: 'output_redaction_summary' },
	],
}

export const deleteSpam: WorkflowBlueprint = {
	id: 'moderation-delete-spam',
	metadata: { version: VERSION, description: 'Deletes a spam post and flags its author.' },
	nodes: [
		{
			id: 'delete_and_flag_user',
			uses: 'moderation.delete-and-flag',
			inputs: { userId: 'userId', spam: 'spam' },
		},
		{
			id: 'output_spam_summary',
			uses: 'moderation.summarise-spam-deletion',
			inputs: { deletion: 'delete_and_flag_user' },
		},
	],
	edges: [{ source: 'delete_and_flag_user', target: 'output_spam_summary' }],
}
