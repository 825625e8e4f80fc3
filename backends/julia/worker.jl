# The network in plain Julia: arrays that are made once, and gradients derived by hand.
#
# A matrix keeps the steps side by side: column (t - 1) * batch + b belongs to step t of path b. So
# one product serves the head of all steps, and only the recurrent layer goes from step to step.

include("protocol.jl")

module Worker

using LinearAlgebra
using ..Protocol: require

const BETA1, BETA2, EPS = 0.9, 0.999, 1e-8

greeting() = ("framework" => "Julia", "version:julia" => string(VERSION), "source" => @__FILE__)

function choose(request)
    require(request; cell = ["rnn"], activation = ["tanh", "relu"], layers = ["1"],
            gradient = ["exact", "stateful-broadcast"])
    fields = Dict(request)
    return (
        activation = fields["activation"] == "relu" ? relu : tanh,
        exact = fields["gradient"] == "exact",
        adam = fields["optimiser"] == "adam",
        rate = parse(Float64, fields["learning_rate"]),
    )
end

relu(x) = max(x, zero(x))
"The slope of an activation, given its value."
slope(::typeof(tanh), h) = 1 - h^2
slope(::typeof(relu), h) = oftype(h, h > 0)

"Parameters, and as many arrays each for their gradient and for the two moments of Adam."
mutable struct Training{M,P}
    model::M
    params::P
    gradient::P
    mean::P
    square::P
    step::Int
end

function start(model, given)
    params = (; (Symbol(name) => Array(value) for (name, value) in given)...)
    return Training(model, params, map(zero, params), map(zero, params), map(zero, params), 0)
end

params(training) = (string(name) => value for (name, value) in pairs(training.params))

"What a forward pass over some steps of some paths writes, and the way back."
struct Tape{T}
    batch::Int
    steps::Int
    x::Matrix{T}          # 1 row
    h::Matrix{T}          # one step more than the others: the initial state comes first
    head::Matrix{T}
    output::Matrix{T}
    delta::Matrix{T}      # the derivatives of the loss by what the activation is given,
    g_head::Matrix{T}     # by the units of the head,
    g_output::Matrix{T}   # and by the outputs
end

function Tape(p, steps, batch)
    matrix(rows, columns = steps * batch) = Matrix{eltype(p.h0)}(undef, rows, columns)
    hidden, head = length(p.h0), length(p.b_1)
    return Tape(batch, steps, matrix(1), matrix(hidden, (steps + 1) * batch), matrix(head),
                matrix(1), matrix(hidden), matrix(head), matrix(1))
end

"The columns of a step, or of several."
columns(tape, t) = (first(t) - 1) * tape.batch + 1 : last(t) * tape.batch
before(tape, t) = view(tape.h, :, columns(tape, t))
after(tape, t) = view(tape.h, :, columns(tape, t .+ 1))

function forward!(tape, p, x_TB, model)
    tape.x[1, :] .= vec(x_TB')
    before(tape, 1) .= p.h0
    for t in 1:tape.steps
        h, x = after(tape, t), view(tape.x, :, columns(tape, t))
        mul!(h, p.W_hh, before(tape, t))
        h .= model.activation.(p.W_xh .* x .+ h .+ p.b_h)
    end
    mul!(tape.head, p.W_1, after(tape, 1:tape.steps))
    tape.head .+= p.b_1
    mul!(tape.output, p.W_2, tape.head)
    tape.output .+= p.b_2
end

"Write the gradient of the mean squared error of all outputs but those of the first step."
function backward!(g, tape, p, y_TB, model)
    scored = columns(tape, 2:tape.steps)
    residual = view(tape.g_output, :, scored)
    tape.g_output .= 0
    residual .= view(tape.output, :, scored) .- vec(y_TB')'
    loss = sum(abs2, residual) / length(residual)
    residual .*= 2 / length(residual)

    mul!(g.W_2, tape.g_output, tape.head')
    sum!(g.b_2, tape.g_output)
    mul!(tape.g_head, p.W_2', tape.g_output)
    mul!(g.W_1, tape.g_head, after(tape, 1:tape.steps)')
    sum!(g.b_1, tape.g_head)

    mul!(tape.delta, p.W_1', tape.g_head)
    through_time!(tape, p, model)
    mul!(g.W_xh, tape.delta, tape.x')
    mul!(g.W_hh, tape.delta, before(tape, 1:tape.steps)')
    sum!(g.b_h, tape.delta)
    first_step = sum(view(tape.delta, :, columns(tape, 1)); dims = 2)
    mul!(g.h0, p.W_hh', vec(first_step))
    model.exact || fill!(g.h0, 0)
    return loss
end

"Give each step what the one after it passes back; `stateful-broadcast` takes the one before it."
function through_time!(tape, p, model)
    order = model.exact ? (tape.steps:-1:1) : (1:1:tape.steps)
    for t in order
        delta, h = view(tape.delta, :, columns(tape, t)), after(tape, t)
        if t != first(order)
            passed = view(tape.delta, :, columns(tape, t - step(order)))
            mul!(delta, p.W_hh', passed, 1, 1)
        end
        delta .*= slope.(model.activation, h)
    end
end

"One step of Adam (Kingma and Ba 2015, algorithm 1) or of gradient descent."
function update!(training)
    training.step += 1
    model, rate = training.model, training.model.rate
    mean_scale, square_scale = 1 / (1 - BETA1^training.step), 1 / (1 - BETA2^training.step)
    foreach(training.params, training.gradient, training.mean, training.square) do p, g, m, v
        if model.adam
            @. m = BETA1 * m + (1 - BETA1) * g
            @. v = BETA2 * v + (1 - BETA2) * g^2
            @. p -= rate * (m * mean_scale) / (sqrt(v * square_scale) + EPS)
        else
            @. p -= rate * g
        end
    end
end

function train!(training, x_ETB, y_ETB)
    p, model = training.params, training.model
    epochs, steps, batch = size(x_ETB)
    tape = Tape(p, steps, batch)
    losses = Vector{eltype(x_ETB)}(undef, epochs)
    for e in 1:epochs
        forward!(tape, p, view(x_ETB, e, :, :), model)
        losses[e] = backward!(training.gradient, tape, p, view(y_ETB, e, :, :), model)
        update!(training)
    end
    return losses
end

function predict(training, x_TN)
    tape = Tape(training.params, size(x_TN)...)
    forward!(tape, training.params, x_TN, training.model)
    return permutedims(reshape(tape.output, size(x_TN, 2), size(x_TN, 1)))
end

end

Protocol.serve(Worker)
