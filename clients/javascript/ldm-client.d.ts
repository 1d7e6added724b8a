/** A client of ldm-service for browsers and Node >= 18. */

export type Task =
  | "txt2img" | "inpaint" | "superres" | "class2img" | "semantic2img" | "layout2img" | "unconditional";
export type Status = "queued" | "running" | "succeeded" | "failed" | "cancelled";

/** The file of a PNG, JPEG or WebP. A File is a Blob. */
export type ImageInput = Blob | ArrayBuffer | ArrayBufferView;

/** Fields of every task; what is left out, or null, is the model's default. */
export interface Fields {
  prompt?: string | null;
  negative_prompt?: string | null;
  model?: string | null;
  steps?: number | null;
  sampler?: string | null;
  schedule?: string | null;
  guidance_scale?: number | null;
  guidance_start?: number | null;
  guidance_end?: number | null;
  eta?: number | null;
  seed?: number | null;
  n?: number | null;
  priority?: "low" | "normal" | "high" | null;
  format?: "png" | "jpeg" | "webp" | null;
  output_compression?: number | null;
  timeout?: number | null;
  upscale?: boolean | null;
  webhook?: string | null;
  metadata?: Record<string, string> | null;
  /** Lets a program that was started again find the job that it had made; a new one for each call otherwise. */
  idempotencyKey?: string;
}

export interface TextFields extends Fields {
  width?: number | null;
  height?: number | null;
  /** Images like the one wanted, for models that take some. */
  neighbors?: ImageInput[] | null;
}

export interface StrengthFields extends Fields {
  /** How far to go from the image, 0 to 1. */
  strength?: number | null;
}

/** Of one request; seconds. */
export interface Options {
  signal?: AbortSignal;
  timeout?: number;
  retryFor?: number;
}

export interface FieldError {
  /** A JSON pointer to the field, such as `/steps`. */
  pointer: string;
  detail: string;
}

/** Anything that this client throws about a server or a job. */
export class LdmError extends Error {}
/** The server cannot be reached, or connections to it broke, for longer than `retryFor`. */
export class ConnectionFailed extends LdmError {}
/** `wait` took longer than its `timeout`; the job goes on. */
export class WaitTimeout extends LdmError {}
/** A job that was waited for has been cancelled. */
export class JobCancelled extends LdmError {}

/** What the server says is wrong: `problem` is all of it (RFC 9457). */
export class ProblemError extends LdmError {
  readonly problem: Record<string, unknown>;
  readonly detail: string;
  readonly errors: FieldError[];
  readonly pointers: string[];
}

/** A job that was waited for has ended without images. */
export class JobFailed extends ProblemError {}

/** An error answer. */
export class ApiError extends ProblemError {
  readonly status: number;
  /** What the server's log calls it. */
  readonly requestId: string;
  /** Seconds, where the server names them. */
  readonly retryAfter: number | null;
}

/** 401: no API key, or an unknown one. */
export class Unauthorized extends ApiError {}
/** 403: the API key may not do this. */
export class Forbidden extends ApiError {}
/** 404: unknown, expired, or another key's. */
export class NotFound extends ApiError {}
/** 422: fields are at fault, each one named in `errors`. */
export class ValidationError extends ApiError {}
/** 429: the queue is full, or the API key is over a limit of its own. */
export class RateLimited extends ApiError {}
/** 503: the queue or the model's workers are away for now. */
export class Unavailable extends ApiError {}

export interface Progress {
  step: number;
  steps: number;
  /** 0 to 1. */
  progress: number;
  /** A small JPEG as a data URL; only some events have one, and only where it was asked for. */
  preview?: string;
}

/** Something that happened to a job. `status` events and the last one have the whole job. */
export type JobEvent =
  | { id: string; name: "progress"; data: Progress; ended: false }
  | { id: string; name: "status"; data: Record<string, unknown>; ended: false }
  | { id: string; name: "succeeded" | "failed" | "cancelled"; data: Record<string, unknown>; ended: true };

/** A finished image of a job; `raw` is all that the server tells of it. */
export class JobImage {
  readonly path: string;
  readonly raw: Record<string, unknown>;
  readonly url: string;
  /** With API keys: opens the image for some minutes without one. */
  readonly signed_url: string | null;
  readonly seed: number;
  readonly width: number;
  readonly height: number;
  readonly content_type: string;
  readonly sha256: string;
  blob(options?: Options): Promise<Blob>;
  bytes(options?: Options): Promise<Uint8Array>;
}

/** A job as the server told of it last; `raw` is all of that. Of a damaged record most is null. */
export class Job {
  readonly raw: Record<string, unknown>;
  readonly path: string;
  readonly id: string;
  readonly task: Task | null;
  readonly model: string;
  readonly status: Status;
  readonly ended: boolean;
  readonly progress: number;
  readonly step: number;
  readonly steps: number;
  readonly queue_position: number | null;
  readonly created_at: string;
  readonly started_at: string | null;
  readonly finished_at: string | null;
  readonly expires_at: string | null;
  /** Every parameter, defaults resolved. */
  readonly request: Record<string, unknown>;
  readonly seed: number | null;
  readonly images: JobImage[];
  readonly error: Record<string, unknown> | null;
  /** What was asked for and not honoured. */
  readonly warnings: { code: string; detail: string; pointer: string }[];
  readonly urls: Record<string, string>;
  /** Asks the server how it is. */
  refresh(options?: Options): Promise<this>;
  /** Ends it within a step. The images of one that had ended are deleted. */
  cancel(options?: Options): Promise<this>;
  /** Resolves when it has succeeded. Throws JobFailed, JobCancelled, and WaitTimeout after `timeout` seconds. */
  wait(options?: { timeout?: number; signal?: AbortSignal }): Promise<this>;
  /** What happens to it, to its end; a broken connection is made again, after the last event that was seen. */
  events(options?: { preview?: boolean; signal?: AbortSignal }): AsyncGenerator<JobEvent, void, void>;
}

export interface ClientOptions {
  /** LDM_SERVER where there is an environment, http://localhost:8000 otherwise. */
  server?: string;
  /** LDM_API_KEY where there is an environment. */
  apiKey?: string;
  /** Of one request, in seconds: 60. */
  timeout?: number;
  /** How long failures in a row that may pass are retried, in seconds: 30. */
  retryFor?: number;
  /** Is told of each retry: console.warn. */
  log?: (message: string) => void;
}

/** A connection to an ldm-service. */
export class Client {
  constructor(options?: ClientOptions);
  readonly server: string;
  readonly timeout: number;
  readonly retryFor: number;
  /** Makes a job of any task, with any fields. */
  create(task: Task | (string & {}), fields: Fields & Record<string, unknown>, options?: Options): Promise<Job>;
  txt2img(prompt: string, fields?: TextFields, options?: Options): Promise<Job>;
  img2img(image: ImageInput, prompt: string, fields?: StrengthFields, options?: Options): Promise<Job>;
  /** Repaints `image` where `mask` is white, without a mask where `image` is transparent. */
  inpaint(image: ImageInput, mask?: ImageInput | null, fields?: Fields, options?: Options): Promise<Job>;
  superres(image: ImageInput, fields?: Fields, options?: Options): Promise<Job>;
  job(id: string, options?: Options): Promise<Job>;
  /** The caller's own jobs, newest first. */
  jobs(options?: Options & { status?: Status; limit?: number }): AsyncGenerator<Job, void, void>;
  /** What the server's live workers serve. */
  models(options?: Options): Promise<Record<string, unknown>[]>;
}
