# Up to Flux 0.14 a recurrent layer keeps its state, and a network is called once for each step.

using Flux.Losses: mse
using Statistics: mean

function build(model, arrays)
    column(state::Vector) = reshape(state, :, 1)
    column(states::Tuple) = column.(states)
    layer(cell, weights, state) = Flux.Recur(cell(weights..., column(state)))
    return Flux.Chain(recurrent(layer, model, arrays)..., head(arrays)...)
end

optimiser(rule, network) = rule

"The inputs or targets of an epoch: one row of paths for each step."
rows(values_TB) = [values_TB[t:t, :] for t in axes(values_TB, 1)]

function train!(training, x_ETB, y_ETB)
    m, parameters = training.network, Flux.params(training.network)
    return map(axes(x_ETB, 1)) do e
        xs, ys = rows(view(x_ETB, e, :, :)), rows(view(y_ETB, e, :, :))
        Flux.reset!(m)
        loss, back = Flux.pullback(parameters) do
            outputs = training.broadcast ? m.(xs) : [m(x) for x in xs]
            mean(mse.(outputs[2:end], ys))
        end
        Flux.Optimise.update!(training.optimiser, parameters, back(one(loss)))
        return loss
    end
end

function predict(training, x_TN)
    Flux.reset!(training.network)
    return reduce(vcat, [training.network(x) for x in rows(x_TN)])
end
