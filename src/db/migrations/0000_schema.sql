CREATE TABLE "flowcraft_arrivals" (
	"run_id" text collate "C" NOT NULL,
	"node_id" text collate "C" NOT NULL,
	"generation" text collate "C" NOT NULL,
	"source" text collate "C" NOT NULL,
	"taken" smallint NOT NULL,
	CONSTRAINT "flowcraft_arrivals_run_id_node_id_generation_source_pk" PRIMARY KEY("run_id","node_id","generation","source")
);
--> statement-breakpoint
CREATE TABLE "flowcraft_attempts" (
	"recorded_at" timestamp with time zone DEFAULT now() NOT NULL,
	"id" bigint GENERATED ALWAYS AS IDENTITY (sequence name "flowcraft_attempts_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"run_id" text collate "C" NOT NULL,
	"node_id" text collate "C" NOT NULL,
	"generation" text collate "C" NOT NULL,
	"recovers" text collate "C" NOT NULL,
	"attempt" integer NOT NULL,
	"outcome" text NOT NULL,
	"worker_id" uuid,
	"claimed_at" timestamp with time zone,
	"error" text,
	"xid" "xid8" DEFAULT pg_current_xact_id() NOT NULL,
	CONSTRAINT "flowcraft_attempts_recorded_at_id_pk" PRIMARY KEY("recorded_at","id")
);
--> statement-breakpoint
CREATE TABLE "flowcraft_blueprint_heads" (
	"blueprint_id" text PRIMARY KEY NOT NULL,
	"hash" text NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "flowcraft_blueprints" (
	"blueprint_id" text NOT NULL,
	"hash" text NOT NULL,
	"version" text,
	"definition" text NOT NULL,
	"start_nodes" text[] NOT NULL,
	"subflows" text[] NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "flowcraft_blueprints_blueprint_id_hash_pk" PRIMARY KEY("blueprint_id","hash")
);
--> statement-breakpoint
CREATE TABLE "flowcraft_contexts" (
	"run_id" text collate "C" NOT NULL,
	"key" text collate "C" NOT NULL,
	"value" text,
	"seq" bigint NOT NULL,
	CONSTRAINT "flowcraft_contexts_run_id_key_pk" PRIMARY KEY("run_id","key")
);
--> statement-breakpoint
CREATE TABLE "flowcraft_idempotency_keys" (
	"scope" text NOT NULL,
	"key" text NOT NULL,
	"request_hash" text NOT NULL,
	"run_id" text collate "C" NOT NULL,
	"expires_at" timestamp with time zone NOT NULL,
	CONSTRAINT "flowcraft_idempotency_keys_scope_key_pk" PRIMARY KEY("scope","key")
);
--> statement-breakpoint
CREATE TABLE "flowcraft_implementations" (
	"uses" text PRIMARY KEY NOT NULL,
	"offered_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "flowcraft_kept_events" (
	"id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "flowcraft_kept_events_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"name" text NOT NULL,
	"key" text,
	"payload" text NOT NULL,
	"received_at" timestamp with time zone DEFAULT now() NOT NULL,
	"expires_at" timestamp with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "flowcraft_nodes" (
	"run_id" text collate "C" NOT NULL,
	"node_id" text collate "C" NOT NULL,
	"generation" text collate "C" DEFAULT '' NOT NULL,
	"recovers" text collate "C" DEFAULT '' NOT NULL,
	"state" text NOT NULL,
	"attempt" integer DEFAULT 1 NOT NULL,
	"crashes" integer DEFAULT 0 NOT NULL,
	"unrunnable_since" timestamp with time zone,
	"due_at" timestamp with time zone,
	"emitted_at" timestamp with time zone DEFAULT now() NOT NULL,
	"reemits" smallint DEFAULT 0 NOT NULL,
	"worker_id" uuid,
	"claim_token" uuid,
	"claimed_at" timestamp with time zone,
	"claimed_xid" "xid8",
	"input_node" text collate "C",
	"input_generation" text collate "C",
	"input_recovers" text collate "C",
	"input" text,
	"input_edge" integer,
	"expected" integer,
	"arrived" integer,
	"taken" integer,
	"output" text,
	"action" text,
	"error" text,
	"dead_letter" text,
	"wake" text,
	"wait" text,
	"wait_event" text,
	"wait_key" text,
	"resume" text,
	"dynamic" text,
	"child_run_id" text collate "C",
	"child_status" text,
	"queue" text,
	"priority" smallint,
	"concurrency_key" text,
	"finished_seq" bigint,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"finished_at" timestamp with time zone,
	CONSTRAINT "flowcraft_nodes_run_id_node_id_generation_recovers_pk" PRIMARY KEY("run_id","node_id","generation","recovers"),
	CONSTRAINT "flowcraft_nodes_state" CHECK ("flowcraft_nodes"."state" in ('pending', 'ready', 'running', 'waiting', 'child', 'completed', 'failed', 'recovered', 'cancelled')),
	CONSTRAINT "flowcraft_nodes_claim" CHECK ("flowcraft_nodes"."state" <> 'running' or ("flowcraft_nodes"."worker_id" is not null and "flowcraft_nodes"."claim_token" is not null))
);
--> statement-breakpoint
CREATE TABLE "flowcraft_outbox" (
	"id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "flowcraft_outbox_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"message_id" uuid DEFAULT gen_random_uuid() NOT NULL,
	"kind" text DEFAULT 'job' NOT NULL,
	"run_id" text collate "C" NOT NULL,
	"node_id" text collate "C" NOT NULL,
	"generation" text collate "C" DEFAULT '' NOT NULL,
	"recovers" text collate "C" DEFAULT '' NOT NULL,
	"blueprint_id" text NOT NULL,
	"queue" text,
	"priority" smallint,
	"concurrency_key" text,
	"exchange" text,
	"routing_key" text,
	"payload" text,
	"headers" text,
	"traceparent" text,
	"due_at" timestamp with time zone DEFAULT now() NOT NULL,
	"claim_token" uuid,
	"claimed_until" timestamp with time zone,
	"failures" integer DEFAULT 0 NOT NULL,
	"last_error" text,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "flowcraft_outbox_kind" CHECK ("flowcraft_outbox"."kind" in ('job', 'event', 'child')),
	CONSTRAINT "flowcraft_outbox_event" CHECK ("flowcraft_outbox"."kind" <> 'event' or ("flowcraft_outbox"."exchange" is not null and "flowcraft_outbox"."routing_key" is not null and "flowcraft_outbox"."payload" is not null))
);
--> statement-breakpoint
CREATE TABLE "flowcraft_secrets" (
	"name" text PRIMARY KEY NOT NULL,
	"value" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "flowcraft_statuses" (
	"run_id" text collate "C" PRIMARY KEY NOT NULL,
	"status" text NOT NULL,
	"reason" text,
	"blueprint_id" text NOT NULL,
	"blueprint_hash" text NOT NULL,
	"blueprint_version" text,
	"pins" jsonb,
	"parent_run_id" text collate "C",
	"parent_node_id" text,
	"parent_generation" text collate "C",
	"parent_recovers" text,
	"depth" smallint DEFAULT 0 NOT NULL,
	"live_count" integer NOT NULL,
	"waiting_count" integer DEFAULT 0 NOT NULL,
	"failed_count" integer DEFAULT 0 NOT NULL,
	"commit_seq" bigint DEFAULT 0 NOT NULL,
	"tags" text[] DEFAULT '{}' NOT NULL,
	"traceparent" text,
	"deadline_at" timestamp with time zone,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp with time zone DEFAULT now() NOT NULL,
	"finished_at" timestamp with time zone,
	CONSTRAINT "flowcraft_statuses_status" CHECK ("flowcraft_statuses"."status" in ('running', 'awaiting', 'paused', 'completed', 'failed', 'cancelled')),
	CONSTRAINT "flowcraft_statuses_counts" CHECK ("flowcraft_statuses"."live_count" >= 0 and "flowcraft_statuses"."waiting_count" between 0 and "flowcraft_statuses"."live_count"),
	CONSTRAINT "flowcraft_statuses_finished" CHECK (("flowcraft_statuses"."finished_at" is null) = ("flowcraft_statuses"."status" in ('running', 'awaiting', 'paused')))
);
--> statement-breakpoint
CREATE TABLE "flowcraft_steps" (
	"run_id" text collate "C" NOT NULL,
	"node_id" text collate "C" NOT NULL,
	"generation" text collate "C" NOT NULL,
	"recovers" text collate "C" NOT NULL,
	"key" text collate "C" NOT NULL,
	"value" text,
	"saved_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "flowcraft_steps_run_id_node_id_generation_recovers_key_pk" PRIMARY KEY("run_id","node_id","generation","recovers","key")
);
--> statement-breakpoint
CREATE TABLE "flowcraft_stream_events" (
	"run_id" text collate "C" NOT NULL,
	"seq" bigint NOT NULL,
	"key" uuid NOT NULL,
	"at" timestamp with time zone NOT NULL,
	"what" text NOT NULL,
	"node_id" text collate "C" NOT NULL,
	"generation" text collate "C" NOT NULL,
	"recovers" text collate "C" NOT NULL,
	"attempt" integer,
	"detail" text,
	CONSTRAINT "flowcraft_stream_events_run_id_seq_pk" PRIMARY KEY("run_id","seq")
);
--> statement-breakpoint
CREATE TABLE "flowcraft_streams" (
	"run_id" text collate "C" PRIMARY KEY NOT NULL,
	"last_seq" bigint DEFAULT 0 NOT NULL,
	"commit_seq" bigint DEFAULT 0 NOT NULL,
	"transition_id" bigint DEFAULT 0 NOT NULL,
	"seen" "pg_snapshot" DEFAULT '1:1:' NOT NULL
);
--> statement-breakpoint
CREATE TABLE "flowcraft_transitions" (
	"recorded_at" timestamp with time zone DEFAULT now() NOT NULL,
	"id" bigint GENERATED ALWAYS AS IDENTITY (sequence name "flowcraft_transitions_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"run_id" text collate "C" NOT NULL,
	"status" text NOT NULL,
	"reason" text,
	CONSTRAINT "flowcraft_transitions_run_id_id_recorded_at_pk" PRIMARY KEY("run_id","id","recorded_at")
);
--> statement-breakpoint
CREATE TABLE "flowcraft_webhooks" (
	"hash" text PRIMARY KEY NOT NULL,
	"run_id" text collate "C" NOT NULL,
	"node_id" text collate "C" NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"expires_at" timestamp with time zone NOT NULL,
	"used_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "flowcraft_workers" (
	"worker_id" uuid PRIMARY KEY NOT NULL,
	"name" text NOT NULL,
	"version" text,
	"queues" text[] NOT NULL,
	"slots" integer NOT NULL,
	"offers" text[] DEFAULT '{}' NOT NULL,
	"started_at" timestamp with time zone DEFAULT now() NOT NULL,
	"heartbeat_at" timestamp with time zone DEFAULT now() NOT NULL,
	"lease_until" timestamp with time zone NOT NULL,
	"draining_at" timestamp with time zone,
	"stopped_at" timestamp with time zone,
	"dead_at" timestamp with time zone
);
--> statement-breakpoint
ALTER TABLE "flowcraft_blueprint_heads" ADD CONSTRAINT "flowcraft_blueprint_heads_blueprint_id_hash_flowcraft_blueprints_blueprint_id_hash_fk" FOREIGN KEY ("blueprint_id","hash") REFERENCES "public"."flowcraft_blueprints"("blueprint_id","hash") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "flowcraft_attempts_run" ON "flowcraft_attempts" USING btree ("run_id","node_id");--> statement-breakpoint
CREATE INDEX "flowcraft_attempts_recorded" ON "flowcraft_attempts" USING btree ("run_id","xid");--> statement-breakpoint
CREATE INDEX "flowcraft_blueprints_version" ON "flowcraft_blueprints" USING btree ("blueprint_id","version");--> statement-breakpoint
CREATE INDEX "flowcraft_idempotency_keys_expiry" ON "flowcraft_idempotency_keys" USING btree ("expires_at");--> statement-breakpoint
CREATE INDEX "flowcraft_kept_events_name" ON "flowcraft_kept_events" USING btree ("name","key");--> statement-breakpoint
CREATE INDEX "flowcraft_kept_events_expiry" ON "flowcraft_kept_events" USING btree ("expires_at");--> statement-breakpoint
CREATE INDEX "flowcraft_nodes_ready" ON "flowcraft_nodes" USING btree ("emitted_at") WHERE state = 'ready';--> statement-breakpoint
CREATE INDEX "flowcraft_nodes_running" ON "flowcraft_nodes" USING btree ("worker_id") WHERE state = 'running';--> statement-breakpoint
CREATE INDEX "flowcraft_nodes_due" ON "flowcraft_nodes" USING btree ("due_at") WHERE state = 'waiting' and due_at is not null;--> statement-breakpoint
CREATE INDEX "flowcraft_nodes_event" ON "flowcraft_nodes" USING btree ("wait_event","wait_key") WHERE state = 'waiting' and wait_event is not null;--> statement-breakpoint
CREATE INDEX "flowcraft_nodes_child" ON "flowcraft_nodes" USING btree ("child_run_id") WHERE state = 'child';--> statement-breakpoint
CREATE INDEX "flowcraft_nodes_turns" ON "flowcraft_nodes" USING btree ("run_id","node_id","generation") WHERE generation <> '';--> statement-breakpoint
CREATE INDEX "flowcraft_nodes_ended" ON "flowcraft_nodes" USING btree ("run_id","finished_seq") WHERE finished_seq is not null;--> statement-breakpoint
CREATE INDEX "flowcraft_nodes_claimed" ON "flowcraft_nodes" USING btree ("run_id","claimed_xid") WHERE claimed_xid is not null and finished_seq is null;--> statement-breakpoint
CREATE INDEX "flowcraft_nodes_dead_letters" ON "flowcraft_nodes" USING btree ("finished_at") WHERE dead_letter is not null;--> statement-breakpoint
CREATE INDEX "flowcraft_outbox_due" ON "flowcraft_outbox" USING btree ((kind = 'event'),"due_at");--> statement-breakpoint
CREATE INDEX "flowcraft_outbox_node" ON "flowcraft_outbox" USING btree ("run_id","node_id");--> statement-breakpoint
CREATE INDEX "flowcraft_statuses_newest" ON "flowcraft_statuses" USING btree ("created_at","run_id");--> statement-breakpoint
CREATE INDEX "flowcraft_statuses_blueprint" ON "flowcraft_statuses" USING btree ("blueprint_id","created_at","run_id");--> statement-breakpoint
CREATE INDEX "flowcraft_statuses_parent" ON "flowcraft_statuses" USING btree ("parent_run_id") WHERE parent_run_id is not null;--> statement-breakpoint
CREATE INDEX "flowcraft_statuses_tags" ON "flowcraft_statuses" USING gin ("tags") WHERE tags <> '{}';--> statement-breakpoint
CREATE INDEX "flowcraft_statuses_live" ON "flowcraft_statuses" USING btree ("status","created_at","run_id") WHERE finished_at is null;--> statement-breakpoint
CREATE UNIQUE INDEX "flowcraft_stream_events_key" ON "flowcraft_stream_events" USING btree ("run_id","key");--> statement-breakpoint
CREATE INDEX "flowcraft_stream_events_emitted" ON "flowcraft_stream_events" USING btree ("at") WHERE what = 'emit';--> statement-breakpoint
CREATE INDEX "flowcraft_webhooks_run" ON "flowcraft_webhooks" USING btree ("run_id");--> statement-breakpoint
CREATE INDEX "flowcraft_webhooks_expiry" ON "flowcraft_webhooks" USING btree ("expires_at");--> statement-breakpoint
CREATE INDEX "flowcraft_workers_lease" ON "flowcraft_workers" USING btree ("lease_until") WHERE stopped_at is null and dead_at is null;